"""Predictions do not depend on how rows are divided into frames, and a group that is not whole is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import ebmeta
from ebmeta.scoring import batches
from ebmeta.scoring.batches import score_batches


def divided(rows: pd.DataFrame, count: int) -> list[pd.DataFrame]:
    """Return rows in frames of whole groups."""
    number = rows["shop"].str.slice(5).astype(int) % count
    return [rows[number == n] for n in range(count)]


@pytest.mark.parametrize("count", [2, 7, 60])
def test_results_do_not_depend_on_the_division(rows, shops, count):
    whole = next(score_batches(shops, [rows], keep=["id"], num_draws=2)).set_index("id")
    parts = pd.concat(score_batches(shops, divided(rows, count), keep=["id"], num_draws=2)).set_index("id")
    assert len(parts) == len(whole) == rows["sold"].isna().sum()
    same = parts.loc[whole.index]
    assert same["shop"].tolist() == whole["shop"].tolist()
    numbers = whole.columns.drop("shop")
    np.testing.assert_allclose(same[numbers], whole[numbers], rtol=1e-5, atol=1e-6)


def test_a_group_cut_by_the_edge_of_a_frame_is_refused(rows, shops):
    cut = [rows.iloc[:10], rows.iloc[10:]]
    name = rows["shop"].iloc[10]
    assert rows["shop"].iloc[9] == name
    with pytest.raises(
        ValueError, match=f"^group '{name}': expected all its rows in one frame, got some in an earlier"
    ):
        list(score_batches(shops, cut))
    for half in cut:  # as two processes see them
        with pytest.raises(ValueError, match=f"^group '{name}': expected .* rows, as column 'n' states, got "):
            list(score_batches(shops, [half], group_rows="n"))


@pytest.mark.parametrize("kind", [pl.DataFrame, pa.Table], ids=["polars", "pyarrow"])
def test_frames_come_back_as_they_went_in(rows, shops, kind):
    frame = pl.from_pandas(rows) if kind is pl.DataFrame else pa.Table.from_pandas(rows, preserve_index=False)
    (found,) = score_batches(shops, [frame], keep=["id"])
    assert isinstance(found, kind)
    (wanted,) = score_batches(shops, [rows], keep=["id"])
    pd.testing.assert_frame_equal(found.to_pandas(), wanted, check_dtype=False)


def test_a_model_is_read_once_until_it_is_written_again(rows, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(batches, "load", lambda folder: read.append(folder) or ebmeta.load(folder))
    model = ebmeta.EmpiricalBayes.regressor(num_features=1, num_steps=0)
    ebmeta.save(model, tmp_path / "m")
    frame = pd.DataFrame({"g": ["a", "a"], "x": [0.0, 1.0], "y": [1.0, None]})
    for _ in range(3):
        list(score_batches(tmp_path / "m", [frame], groups="g"))
    assert len(read) == 1
    ebmeta.save(model, tmp_path / "m")
    list(score_batches(tmp_path / "m", [frame], groups="g"))
    assert len(read) == 2


def test_another_folder_is_refused(rows, tmp_path):
    with pytest.raises(FileNotFoundError, match="absent: expected a model folder with config.json, found none"):
        score_batches(tmp_path / "absent", [rows])
    fit = ebmeta.mixed_model("sold ~ price + (1 | shop)", rows.dropna())
    fit.save(tmp_path / "mixed")
    with pytest.raises(ValueError, match="mixed: expected a model of tasks, got a mixed model$"):
        score_batches(tmp_path / "mixed", [rows])


@pytest.mark.parametrize("frames", [{"a": 1}, "rows.csv", pd.DataFrame({"a": [1]}), pl.DataFrame({"a": [1]})])
def test_what_is_no_stream_of_frames_is_refused_at_once(shops, frames):
    with pytest.raises(ValueError, match="^frames: expected an iterator of frames, such as a list of one, got "):
        score_batches(shops, frames)


def test_frames_are_taken_one_at_a_time(rows, shops):
    taken = []
    stream = score_batches(shops, (taken.append(n) or part for n, part in enumerate(divided(rows, 5))))
    next(stream)
    assert taken == [0]
