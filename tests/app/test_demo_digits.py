"""The pile of the demo: what the classifier says of it, and a picture that shows every image once."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from ebmeta import FewShotClassifier
from ebmeta.app.demo_digits import RIGHT, WRONG, Pile, sort_pile


@pytest.fixture(scope="module")
def pile() -> Pile:
    return sort_pile(3, 40)


def test_probabilities_are_those_of_the_classifier_that_ships(pile):
    clf = FewShotClassifier().fit(pile.shown, pile.digits)
    np.testing.assert_allclose(pile.probs, clf.predict_proba(pile.rows))
    found = pile.numbers
    assert found["accuracy"] == pytest.approx((clf.predict(pile.rows) == pile.truth).mean())
    assert found["probably_right"] == pytest.approx(pile.probs.max(1).mean())
    assert (found["rows"], found["digits"]) == (40, pile.digits.tolist())


def test_images_are_different_ones_of_five_digits(pile):
    X, y = load_digits(return_X_y=True)
    numbers = {image.tobytes(): digit for image, digit in zip(X, y, strict=True)}
    assert [numbers[image.tobytes()] for image in pile.shown] == pile.digits.tolist()
    assert [numbers[image.tobytes()] for image in pile.rows] == pile.truth.tolist()
    assert len({image.tobytes() for image in (*pile.rows, *pile.shown)}) == 45
    assert len(set(pile.digits)) == 5


def test_the_seed_decides():
    first, again, other = sort_pile(0, 5), sort_pile(0, 5), sort_pile(1, 5)
    np.testing.assert_array_equal(first.rows, again.rows)
    assert not np.array_equal(first.rows, other.rows)
    with pytest.raises(ValueError, match="num_rows: expected at least 1, got 0"):
        sort_pile(0, 0)


def test_the_picture_has_every_image_the_surest_first_with_mistakes_framed():
    images = np.zeros((5, 64))
    images[:, 27] = 16
    probs = np.array([[0.6, 0.4], [0.9999, 0.0001], [0.3, 0.7], [0.8, 0.2], [0.2, 0.8]])
    own = Pile(images[:2], np.array([3, 7]), images, np.array([3, 3, 3, 3, 7]), probs)
    (ax,) = own.figure().axes
    texts = [t for t in ax.texts if t.get_text().isdigit()]
    assert [t.get_text() for t in texts] == ["99", "80", "60", "80", "70"]
    assert [t.get_color() for t in texts] == [RIGHT] * 4 + [WRONG]
    assert len([p for p in ax.patches if p.get_edgecolor()[0] > 0.5]) == 1  # red: a three that was taken for a seven
    canvas = ax.images[0].get_array().filled(np.nan)
    assert np.nanmax(canvas) == 16
    assert (~np.isnan(canvas)).sum() == 7 * 40 * 40
