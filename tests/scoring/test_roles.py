"""A model of named columns knows its own; of another one the caller names the groups."""

from __future__ import annotations

import pandas as pd
import pytest

import ebmeta
from ebmeta.scoring.roles import Roles, roles_for
from ebmeta.tasks.frames import FrameEncoder

MODEL = ebmeta.EmpiricalBayes.regressor(num_features=1, num_steps=0)
ENCODER = FrameEncoder("sold", "shop").fit(pd.DataFrame({"sold": [1.0], "shop": ["a"], "price": [2.0]}))


def test_columns_are_those_of_the_model_where_it_knows_them():
    assert roles_for(MODEL, ENCODER, (None, None), ["id"], "n") == Roles("sold", "shop", ("id",), "n")
    assert roles_for(MODEL, ENCODER, ("sold", "shop"), [], None) == Roles("sold", "shop", (), None)
    assert roles_for(MODEL, None, (None, "shop"), [], None) == Roles("y", "shop", (), None)


@pytest.mark.parametrize(
    ("encoder", "named", "keep", "said"),
    [
        (ENCODER, ("y", None), (), "label: expected 'sold', as the model was trained, got 'y'"),
        (ENCODER, (None, "g"), (), "groups: expected 'shop', as the model was trained, got 'g'"),
        (None, (None, None), (), "groups: expected the name of the column of groups, got None, and the model knows"),
        (None, (None, "g"), "id", "keep: expected a list of columns, got the text 'id'"),
    ],
)
def test_other_columns_are_refused(encoder, named, keep, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        roles_for(MODEL, encoder, named, keep, None)


def test_features_are_those_of_the_model_or_all_other_columns():
    frame = pd.DataFrame(columns=["shop", "n", "b", "id", "a", "y"])
    roles = Roles("y", "shop", ("id",), "n")
    assert roles.features(frame, None) == ["b", "a"]
    assert roles.features(frame, ["a"]) == ["a"]
    with pytest.raises(ValueError, match="^frame: expected a column 'c', as the model was trained on, got none$"):
        roles.features(frame, ["a", "c"])
    roles.check(frame)
    with pytest.raises(ValueError, match="^frame: expected a column 'n', got shop, id, y$"):
        roles.check(frame[["shop", "id", "y"]])
