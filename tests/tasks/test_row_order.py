"""The order of rows that several arguments of one call name."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ebmeta import EmpiricalBayes, EpisodeSampler, FewShotClassifier, FewShotRegressor, GroupSampler
from ebmeta.tasks.row_order import check_order

X = pd.DataFrame(np.arange(24.0).reshape(12, 2), columns=["a", "b"], index=[f"row {i}" for i in range(12)])
Y = pd.Series([0, 1, 2] * 4, index=X.index)
REG = FewShotRegressor(EmpiricalBayes.regressor(2, num_steps=0))
FITTED = FewShotRegressor(EmpiricalBayes.regressor(2, num_steps=0)).fit(X, Y, groups=Y)
KNOWN = FewShotClassifier().fit(X[:3], Y[:3])
CALLS = {
    "EpisodeSampler": lambda y: EpisodeSampler(X, y, n_way=2, n_shot=1, n_query=1),
    "GroupSampler, y": lambda y: GroupSampler(X, y, Y, n_support=1),
    "GroupSampler, groups": lambda groups: GroupSampler(X, Y, groups, n_support=1),
    "GroupSampler, size": lambda size: GroupSampler(X, Y, Y, n_support=1, size=size + 1),
    "FewShotClassifier": lambda y: FewShotClassifier().fit(X, y),
    "FewShotClassifier with anchors": lambda y: FewShotClassifier().fit(X, y, anchors={7: X.iloc[0]}),
    "FewShotRegressor, y": lambda y: REG.fit(X, y),
    "FewShotRegressor, groups": lambda groups: REG.fit(X, Y, groups=groups),
    "FewShotRegressor, size": lambda size: REG.fit(X, Y, size=size + 1),
    "FewShotRegressor.predict": lambda groups: FITTED.predict(X, groups=groups),
    "FewShotRegressor.tasks": lambda groups: FITTED.tasks(X, groups=groups),
    "FewShotRegressor.score": lambda y: FITTED.score(X, y, groups=Y),
    "FewShotRegressor.score, sample_weight": lambda w: FITTED.score(X, Y, w + 1, groups=Y),
    "FewShotClassifier.score": lambda y: KNOWN.score(X, y),
    "FewShotClassifier.score, sample_weight": lambda w: KNOWN.score(X, Y, w + 1),
    "FewShotRegressor.log_density": lambda y: FITTED.log_density(X, y, groups=Y),
}


@pytest.mark.filterwarnings("ignore:model. expected a trained one")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_column_of_the_same_rows_in_another_order_is_refused(call):
    call(Y)
    call(Y.to_numpy())
    with pytest.raises(
        ValueError,
        match=r"^(y|groups|size|sample_weight): expected the rows of X in their order, got 'row 11' in row 0",
    ):
        call(Y[::-1])


def test_indices_that_name_other_rows_say_nothing():
    for index in (np.arange(12)[::-1], [f"row {i}" for i in range(1, 13)], ["row 1"] * 12):
        check_order(X, y=Y[::-1].set_axis(index))
    check_order(X, y=Y[:5], groups=None, size=[1.0])
    check_order(X.to_numpy(), y=Y[::-1])
    twice = X.set_axis(["a", "b"] * 6)
    check_order(twice, y=pd.Series(Y.to_numpy(), index=["b", "a"] * 6))
