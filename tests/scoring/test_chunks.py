"""Chunks are of whole groups, and hold what a process needs: their predictions are those of all groups at once."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import ebmeta
from ebmeta.scoring import chunks as module
from ebmeta.scoring.chunks import answer, chunks
from ebmeta.scoring.frame import LEVELS


def test_chunks_hold_whole_groups_and_every_row_once(rows, shops, monkeypatch):
    monkeypatch.setattr(module, "GROUPS", 7)
    model, encoder = ebmeta.load(shops), ebmeta.load_encoder(shops)
    known, asked = rows[rows["sold"].notna()], rows[rows["sold"].isna()]
    asked = asked.sample(frac=1, random_state=0)
    reg = ebmeta.FewShotRegressor(model)
    reg.fit(encoder.transform(known), known["sold"].to_numpy(), groups=known["shop"].to_numpy())
    x, groups, levels = encoder.transform(asked), asked["shop"].tolist(), list(LEVELS.values())
    parts = list(chunks(Path(shops), reg, x, groups, None, levels))
    names = [set(part.groups) for part in parts]
    assert [len(each) for each in names] == [7] * (len(parts) - 1) + [asked["shop"].nunique() - 7 * (len(parts) - 1)]
    assert sum(map(len, names)) == len(set.union(*names))
    assert sorted(np.concatenate([part.at for part in parts])) == list(range(len(asked)))
    assert all(set(part.reg.groups_) <= each for part, each in zip(parts, names, strict=True))
    assert sum(len(part.reg.support_y_) for part in parts) == known["shop"].isin(set(groups)).sum()
    found = np.empty((5, len(asked)))
    for part in parts:
        found[:, part.at] = answer(pickle.loads(pickle.dumps(part)))
    whole = reg.summaries(x, levels, groups=groups)
    np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-6)


def test_rows_without_groups_are_one_chunk(tmp_path):
    model = ebmeta.EmpiricalBayes.regressor(num_features=1, num_steps=0)
    ebmeta.save(model, tmp_path / "m")
    reg = ebmeta.FewShotRegressor(model).fit([[0.0], [1.0]], [0.0, 1.0])
    (part,) = chunks(tmp_path / "m", reg, np.array([[2.0]]), None)
    assert part.reg.model is None
    torch.set_num_threads(2)
    try:
        assert answer(part).tolist() == reg.summaries([[2.0]]).tolist()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_names_near_those_of_labelled_rows_are_told_of_once(tmp_path):
    """A chunk has the labelled rows of its own groups alone, so that none is near in it: '7' was predicted as new."""
    model = ebmeta.EmpiricalBayes.regressor(num_features=1, num_steps=0)
    ebmeta.save(model, tmp_path / "m")
    reg = ebmeta.FewShotRegressor(model).fit(np.zeros((3, 1)), [0.0, 1.0, 2.0], groups=["07", "08", "11"])
    asked = np.zeros((3, 1)), ["7", "11", "08"]
    with pytest.warns(UserWarning, match="'7' counts as new, and differs from '07' of the known groups in writing"):
        parts = list(chunks(tmp_path / "m", reg, *asked))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "groups: ")
        found = [answer(part) for part in parts]
        assert list(chunks(tmp_path / "m", reg, np.zeros((1, 1)), ["new"]))
        assert list(chunks(tmp_path / "m", reg, np.zeros((1, 1)), ["11"]))
    with pytest.warns(UserWarning, match="counts as new"):
        np.testing.assert_allclose(np.concatenate(found, 1), reg.summaries(asked[0], groups=asked[1]), rtol=1e-6)
