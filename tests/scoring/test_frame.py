"""The predictions of a frame are those of the estimators, group by group."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

import ebmeta
from ebmeta.scoring.batches import opened, score_batches
from ebmeta.scoring.frame import LEVELS, Scorer
from ebmeta.scoring.roles import Roles


def test_numbers_are_those_of_the_estimator_for_each_group_alone(rows, shops):
    model, encoder = ebmeta.load(shops), ebmeta.load_encoder(shops)
    (found,) = score_batches(shops, [rows], keep=["id"])
    asked = rows[rows["sold"].isna()]
    assert found["id"].tolist() == asked["id"].tolist()
    assert found["shop"].tolist() == asked["shop"].tolist()
    for shop, own in asked.groupby("shop"):
        known = rows[(rows["shop"] == shop) & rows["sold"].notna()]
        reg = ebmeta.FewShotRegressor(model).fit(encoder.transform(known), known["sold"].to_numpy())
        alone = reg.summaries(encoder.transform(own), list(LEVELS.values()))
        np.testing.assert_allclose(
            found[found["shop"] == shop][["mean", "std", *LEVELS]].T, alone, rtol=1e-5, atol=1e-6
        )


def test_draws_have_the_predicted_moments_and_are_of_the_group_alone(rows, shops):
    some = rows[rows["shop"] < "shop 06"]
    (found,) = score_batches(shops, [some], num_draws=2000, seed=3)
    draws = found.filter(like="draw_").to_numpy()
    error = (draws.mean(1) - found["mean"]) / (found["std"] / np.sqrt(2000))
    assert abs(error).max() < 4.5  # 20 rows: passed by chance but once in 7,000 seeds
    np.testing.assert_allclose(draws.std(1), found["std"], rtol=0.15)
    last = found["shop"].iloc[-1]
    (alone,) = score_batches(shops, [some[some["shop"] == last]], num_draws=2000, seed=3)
    np.testing.assert_allclose(alone.filter(like="draw_"), draws[found["shop"] == last], rtol=1e-5, atol=1e-5)
    (other,) = score_batches(shops, [some[some["shop"] == last]], num_draws=2000, seed=4)
    assert not np.allclose(other["draw_0"], alone["draw_0"])


def test_each_group_is_classified_among_its_own_classes(kinds):
    rng = np.random.default_rng(1)
    frames, wanted = [], []
    for name, classes in (("pets", ["cat", "dog"]), ("drinks", ["tea", "milk", "water"])):
        y = np.repeat(classes, 5)
        X = 4 * rng.normal(size=(len(classes), 6))[np.repeat(np.arange(len(classes)), 5)] + rng.normal(size=(len(y), 6))
        few = np.arange(len(y)) % 5 == 0
        clf = ebmeta.FewShotClassifier().fit(X[few], y[few])
        wanted += clf.predict_proba(X[~few]).max(1).tolist()
        frames.append(pd.DataFrame(X, columns=list("abcdef")).assign(pile=name, y=np.where(few, y, None), true=y))
    both = pd.concat(frames, ignore_index=True)
    (found,) = score_batches(kinds, [both.drop(columns="true")], groups="pile")
    assert (found["prediction"] == both[both["y"].isna()]["true"].to_numpy()).mean() > 0.9
    assert found["probability"].tolist() == wanted
    with pytest.raises(ValueError, match="^group 'pets': expected labelled rows of its classes, got none$"):
        list(score_batches(kinds, [both.assign(y=None).drop(columns="true")], groups="pile"))


def test_what_cannot_be_asked_is_refused(kinds, rows, shops):
    with pytest.raises(ValueError, match="^num_draws: expected 0 for a model of classes, got 5$"):
        score_batches(kinds, [], groups="pile", num_draws=5)
    with pytest.raises(ValueError, match="^frame: expected a column 'sold', got shop, "):  # its labels would be lost
        list(score_batches(shops, [rows.rename(columns={"sold": "Sold"})[["shop", "Sold"]]]))
    with pytest.raises(ValueError, match="^keep: expected columns of names other than those of predictions, got"):
        list(score_batches(shops, [rows.assign(mean=0.0)], keep=["mean"]))
    with pytest.raises(ValueError, match="^column 'shop': expected a label in every row, got none in row 1"):
        list(score_batches(shops, [rows.assign(shop=["a", None] + ["b"] * (len(rows) - 2))]))


def test_what_is_refused_is_named_by_its_place_in_the_frame(rows, shops):
    row = int(np.flatnonzero(rows["sold"].isna())[-1])
    kinds, prices = rows["kind"].copy(), rows["price"].copy()
    kinds[row], prices[row] = "ham", np.nan
    with pytest.raises(ValueError, match=f"got 'ham' in row {row}$"):
        list(score_batches(shops, [rows.assign(kind=kinds)]))
    with pytest.raises(ValueError, match=f"^column 'price': expected a value in every row, got none in row {row};"):
        list(score_batches(shops, [rows.assign(price=prices)]))


def test_a_frame_of_labelled_rows_alone_gives_none(rows, shops):
    (found,) = score_batches(shops, [rows[rows["sold"].notna()]])
    assert found.shape == (0, 6)
    assert found.columns.tolist() == ["shop", "mean", "std", *LEVELS]


def test_a_group_is_read_as_it_is_named(rows, shops):
    scorer = Scorer(*opened(Path(shops)), Roles("sold", "shop", (), "n"))
    assert scorer.groups(rows) == rows["shop"].tolist()
    with pytest.raises(ValueError, match="^group 'shop 00': expected .* rows, as column 'n' states, got 1; divide"):
        scorer.groups(rows.head(1))


def test_frames_after_the_first_are_read_by_its_names_in_any_order(tmp_path):
    model = ebmeta.EmpiricalBayes.regressor(num_features=2, num_steps=0)  # trained on arrays, without names
    folder = ebmeta.save(model, tmp_path / "m")
    first = pd.DataFrame({"g": "a", "x": [1.0, 2.0, 3.0], "z": [5.0, 3.0, 9.0], "y": [4.0, 1.0, None]})
    second = first.assign(g="b")
    wanted = list(score_batches(folder, [first, second], groups="g"))
    found = list(score_batches(folder, [first, second[["z", "y", "g", "x"]]], groups="g"))
    pd.testing.assert_frame_equal(found[1], wanted[1])
    assert found[1]["mean"].tolist() == wanted[0]["mean"].tolist()
    with pytest.raises(ValueError, match="in the first frame; got unseen then: w; seen then, yet now missing: z"):
        list(score_batches(folder, [first, second.rename(columns={"z": "w"})], groups="g"))
    numbered = [f.rename(columns={"x": 0, "z": 1}) for f in (first, second)]
    pd.testing.assert_frame_equal(pd.concat(score_batches(folder, numbered, groups="g")), pd.concat(wanted))


def test_an_empty_text_is_no_absent_label(kinds, rows, shops):
    texts = rows["sold"].map(lambda v: "" if np.isnan(v) else v)
    with pytest.raises(ValueError, match="^column 'sold': expected numbers, got the text '' in row "):
        list(score_batches(shops, [rows.assign(sold=texts)]))
    frame = pd.DataFrame({"pile": "p", "a": [0.0, 4.0, 1.0], "b": [1.0, 3.0, 1.0], "y": ["tea", "milk", ""]})
    with pytest.raises(ValueError, match="^column 'y': expected a label in every row, got the text '' in row 2$"):
        list(score_batches(kinds, [frame], groups="pile"))


def test_columns_come_back_in_their_types(kinds):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(9, 3)), columns=list("abc")).assign(pile="p")
    far = 2**53 + 1  # which no float is
    frame["y"] = pd.array([far, far + 2, None] * 3, dtype="Int64")
    frame["id"] = pd.array([None, None, far, None, None, None, None, None, 7], dtype="Int64")
    (found,) = score_batches(kinds, [frame], groups="pile", keep=["id"])
    assert found["id"].tolist()[::2] == [far, 7]
    assert found["prediction"].isin([far, far + 2]).all()
    (same,) = score_batches(kinds, [pl.from_pandas(frame)], groups="pile", keep=["id"])
    assert same.to_dict(as_series=False) == pl.from_pandas(found).to_dict(as_series=False)
    (none,) = score_batches(kinds, [frame[:0]], groups="pile", keep=["id"])
    assert none.dtypes.tolist() == found.dtypes.tolist()
