"""
What do these people want? Five sentences each
==============================================

A bank gets messages. Four things that people ask for have five example sentences each, and nothing was ever trained
on them. The classifier that ships with the package sorts new messages, and uses all of them at once: together they
show how people put things.
"""

# %%
# Sentences become vectors first. Counts of words and of pieces of words do here. In earnest take the embeddings of
# your own encoder; nothing below changes.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

import ebmeta

examples = {
    "lost card": [
        "I lost my card",
        "my card was stolen on the train",
        "someone took my credit card",
        "I cannot find my card anywhere, please block it",
        "block my stolen card",
    ],
    "balance": [
        "how much money do I have",
        "what is the balance of my account",
        "show me my account balance",
        "how much is left in my account",
        "is there any money left this month",
    ],
    "send money": [
        "send fifty pounds to Ann",
        "I want to transfer money to my brother",
        "pay my rent to the landlord",
        "transfer two hundred to savings",
        "please send some money to my mother",
    ],
    "exchange rate": [
        "what is the exchange rate for euros",
        "how many dollars do I get for one pound",
        "rate of the yen today",
        "what are dollars worth in euros",
        "today's rate for pounds and euros",
    ],
}
messages = [
    "my credit card got lost",
    "please block the card, it was stolen",
    "I think my card is gone, can you block it",
    "how much do I have left",
    "tell me the balance, please",
    "how much money is in my account",
    "send two hundred pounds to my landlord",
    "transfer some money to Ann",
    "pay fifty to my brother please",
    "what is the rate of dollars today",
    "how many euros for one pound",
    "how many yen for ten euros",
]

texts = [text for group in examples.values() for text in group] + messages
words = TfidfVectorizer(sublinear_tf=True).fit_transform(texts)
pieces = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True).fit_transform(texts)
X = np.hstack([TruncatedSVD(12, random_state=0).fit_transform(counts) for counts in (words, pieces)])

# %%
# The first twenty rows have labels, the rest have none.

labels = np.repeat(list(examples), 5)
clf = ebmeta.FewShotClassifier().fit(X[:20], labels)
p = clf.predict_proba(X[20:])

# %%
# Each message with the probability of each intent. Where the colour is shared, the words do not tell.

fig, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
ax.imshow(p, cmap="Blues", vmin=0, vmax=1, aspect="auto")
ax.set_xticks(range(len(clf.classes_)), clf.classes_)
ax.set_yticks(range(len(messages)), messages)
for (row, column), value in np.ndenumerate(p):
    if value >= 0.005:
        ax.text(column, row, f"{value:.0%}", ha="center", va="center", color="white" if value > 0.5 else "black")
ax.xaxis.tick_top()
ax.spines[:].set_visible(False)
ax.tick_params(length=0)
