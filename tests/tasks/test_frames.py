"""Data frames: columns become what the documentation says, and every malformed one is named."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import ebmeta
from ebmeta import EmpiricalBayes, GroupSampler
from ebmeta.tasks.frames import FrameEncoder

FRAME = pd.DataFrame(
    {
        "price": [1.5, 2.0, 3.0, 4.0, 5.0, 6.0],
        "kind": ["b", "a", "c", "a", "b", "c"],
        "open": [True, False, True, True, False, True],
        "city": ["x", "x", "x", "y", "y", "y"],
        "area": [10, 10, 10, 20, 20, 20],
        "days": [1, 2, 1, 2, 1, 2],
        "shop": ["s1", "s1", "s1", "s2", "s2", "s2"],
        "sold": [3, 0, 2, 5, 1, 4],
    }
)
ROLES = {"y": "sold", "groups": "shop", "group_features": ["city", "area"], "size": "days"}


def encoder(frame=FRAME, **roles) -> FrameEncoder:
    return FrameEncoder(**(ROLES | roles)).fit(frame)


def test_columns_become_features_covariates_sizes_and_labels():
    got = encoder()
    assert got.names == ["price", "kind_b", "kind_c", "open"]
    expected = [[1.5, 1, 0, 1], [2, 0, 0, 0], [3, 0, 1, 1], [4, 0, 0, 1], [5, 1, 0, 0], [6, 0, 1, 1]]
    assert got.transform(FRAME).tolist() == expected
    assert got.group_names == ["city_y", "area"]
    assert {k: v.tolist() for k, v in got.group_x(FRAME).items()} == {"s1": [0, 10], "s2": [1, 20]}
    batch = GroupSampler.from_frame(FRAME, **ROLES, n_support=1).sample(2)
    for t in range(2):
        x, y, size = (
            torch.cat([getattr(batch, f"{s}_{part}")[t] for s in ("support", "query")]) for part in ("x", "y", "size")
        )
        rows = [FRAME.index[FRAME["price"] == float(price)][0] for price in x[:, 0]]
        assert y.tolist() == FRAME["sold"][rows].tolist()
        assert size.tolist() == FRAME["days"][rows].tolist()
        assert x.tolist() == [expected[row] for row in rows]
        assert batch.task_x[t].tolist() == ([0, 10] if rows[0] < 3 else [1, 20])


def test_new_rows_become_what_training_rows_did():
    train = GroupSampler.from_frame(FRAME, **ROLES, n_support=1)
    new = FRAME.iloc[[3, 4, 5]].assign(kind=["a", "a", "b"], shop="s9")[FRAME.columns[::-1]]
    sampler = GroupSampler.from_frame(new, encoder=train.encoder, n_support=1)
    assert sampler.groups.tolist() == ["s9"]
    assert sampler.X.tolist() == [[4, 0, 0, 1], [5, 0, 0, 0], [6, 1, 0, 1]]
    assert sampler.encoder is train.encoder
    unlabelled = new.drop(columns=["sold", "shop"])
    assert (train.encoder.transform(unlabelled) == sampler.X).all()


def test_kinds_of_columns():
    kinds = {
        "category": pd.Categorical(["b", "a", "b"], categories=["z", "b", "a"]),  # z is never seen, b is the first
        "objects": pd.Series([1, 2.5, 3], dtype=object),
        "nullable": pd.Series([1, 2, 3], dtype="Int64"),
        "flag": pd.Series([True, False, True], dtype="boolean"),
        "text": pd.Series(["u", "v", "u"], dtype="string"),
        "codes": pd.Categorical([3, 1, 3]),
    }
    frame = pd.DataFrame(kinds).assign(shop=[1, 1, 1], sold=[1.0, 2.0, 3.0])
    got = FrameEncoder("sold", "shop").fit(frame)
    assert got.names == ["category_a", "objects", "nullable", "flag", "text_v", "codes_3"]
    assert got.transform(frame).tolist() == [[0, 1, 1, 1, 0, 1], [1, 2.5, 2, 0, 1, 0], [0, 3, 3, 1, 0, 1]]


def test_the_configuration_rebuilds_the_encoder():
    first = encoder()
    again = FrameEncoder.from_config(json.loads(json.dumps(first.config(), allow_nan=False)))
    assert again.config() == first.config()
    assert (again.transform(FRAME) == first.transform(FRAME)).all()
    assert (again.group_rows(FRAME) == first.group_rows(FRAME)).all()
    with pytest.raises(ValueError, match="encoder: expected columns and their levels, got: KeyError"):
        FrameEncoder.from_config({"y": "sold"})


def test_columns_are_the_numbers_of_their_features():
    got = encoder(FRAME.assign(same="z"), features=["kind", "same", "price", "open"])
    assert got.names == ["kind_b", "kind_c", "price", "open"]
    assert got.numbers_of_features(["open", "kind"]) == [0, 1, 3]
    assert got.numbers_of_features(["same"]) == got.numbers_of_features([]) == []
    with pytest.raises(ValueError, match="columns: expected some of the features, kind, same, price, open, got 'city'"):
        got.numbers_of_features(["price", "city"])


def test_where_no_feature_is_left_there_are_intercepts_alone():
    for frame, features in ((FRAME, []), (FRAME.assign(kind="a"), ["kind"])):
        got = encoder(frame, features=features)
        assert got.names == []
        assert got.transform(FRAME[:2].assign(kind="a")).shape == (2, 0)
    sampler = GroupSampler.from_frame(FRAME, "sold", "shop", [], n_support=1)
    model = EmpiricalBayes.regressor(0, "poisson", num_steps=0)
    run = ebmeta.fit(model, sampler, 2, progress=False)
    assert np.isfinite(run.history["loss"]).all()


def test_constant_columns_add_nothing_beyond_the_intercept():
    frame = FRAME.assign(price=7.0, area=3)
    sampler = GroupSampler.from_frame(frame, **ROLES, n_support=1)
    model = EmpiricalBayes.regressor(sampler.X.shape[1], "poisson", num_covariates=2, num_steps=0)
    ebmeta.fit(model, sampler, 3, progress=False)
    assert model.predictor.unit[0] == model.prior.unit[1] == 1.0
    assert (model.predictor.features(sampler.sample(2).query_x)[..., 0] == 0).all()
    reg = ebmeta.FewShotRegressor(model).fit(
        sampler.encoder.transform(frame), frame["sold"], groups=frame["shop"], group_x=sampler.encoder.group_x(frame)
    )
    assert np.isfinite(reg.predict(sampler.encoder.transform(frame), groups=frame["shop"])).all()


def with_value(column, row, value):
    frame = FRAME.astype({column: object})
    frame.loc[row, column] = value
    return frame


@pytest.mark.parametrize(
    ("frame", "roles", "message"),
    [
        (with_value("price", 3, None), {}, "column 'price': expected a value in every row, got none in row 3; fill"),
        (
            FRAME.assign(price=FRAME["price"].where(FRAME["days"] > 1)),
            {},
            r"'price': .* got none in row 0 \(and 2 more",
        ),
        (FRAME.assign(kind=None), {}, r"column 'kind': expected values, got none in any row \(leave it out\)"),
        (FRAME.assign(price=np.nan), {}, "column 'price': expected values, got none in any row"),
        (with_value("kind", 2, None), {}, "column 'kind': expected a value in every row, got none in row 2"),
        (with_value("price", 4, np.inf), {}, "column 'price': expected finite numbers, got inf in row 4"),
        (with_value("sold", 1, None), {}, "column 'sold': expected a value in every row, got none in row 1"),
        (with_value("shop", 1, None), {}, "column 'shop': expected a value in every row, got none in row 1"),
        (with_value("days", 1, None), {}, "column 'days': expected a value in every row, got none in row 1"),
        (with_value("area", 1, None), {}, "column 'area': expected a value in every row, got none in row 1"),
        (FRAME.assign(days=[1, 2, 0, 1, 1, 1]), {}, "size: expected finite numbers above 0, got 0.0 at row 2"),
        (FRAME.assign(sold="many"), {}, "column 'sold': expected numbers, got string values"),
        (with_value("kind", 2, 5), {}, "column 'kind': expected numbers or texts, got mixed-integer values"),
        (
            FRAME.assign(price=pd.date_range("2020", periods=6)),
            {},
            "'price': expected numbers or texts, got datetime64",
        ),
        (
            FRAME.assign(kind=pd.interval_range(0, 6)).astype({"kind": "category"}),
            {},
            "expected categories that are texts",
        ),
        (
            with_value("area", 1, 11),
            {},
            r"group_features: expected one value of 'area' .* got 10 and 11 in group 's1' \(rows 0 and 1\)",
        ),
        (FRAME, {"y": "profit"}, "frame: expected a column 'profit', got price, kind"),
        (FRAME, {"features": ["rent"]}, "frame: expected a column 'rent', got price, kind"),
        (FRAME, {"features": ["area"]}, "columns: expected one role for each, got 'area' in several"),
        (
            FRAME,
            {"features": "price"},
            "features: expected a sequence, each a text .*, got 'price'",
        ),
        (FRAME, {"y": None}, "y and groups: expected the names of two columns, got None and 'shop'"),
        (FRAME.rename(columns={"kind": "price"}), {}, "frame: expected columns of distinct names, got 'price' twice"),
        (FRAME.to_dict(), {}, "frame: expected a data frame of pandas, polars or pyarrow, got dict"),
    ],
)
def test_malformed_columns(frame, roles, message):
    with pytest.raises(ValueError, match=message):
        GroupSampler.from_frame(frame, **(ROLES | roles), n_support=1)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (FRAME.assign(kind="d"), r"column 'kind': expected one of the categories .*'a', 'b', 'c'\], got 'd' in row 0"),
        (FRAME.assign(kind=1), "column 'kind': expected one of the categories .* got 1 in row 0"),
        (FRAME.assign(price="dear"), "column 'price': expected numbers, got string values"),
        (FRAME.drop(columns="open"), "frame: expected a column 'open', got price, kind"),
        (FRAME.assign(city="z"), "column 'city': expected one of the categories .* got 'z' in row 0"),
    ],
)
def test_new_rows_unlike_the_training_rows(frame, message):
    with pytest.raises(ValueError, match=message):
        GroupSampler.from_frame(frame, encoder=encoder(), n_support=1)


def test_texts_of_very_many_values_and_other_mistakes():
    names = pd.DataFrame({"name": [f"n{i:03d}" for i in range(60)], "shop": [0, 1] * 30, "sold": range(60)})
    with pytest.raises(ValueError, match="column 'name': expected at most 50 distinct texts, got 60"):
        GroupSampler.from_frame(names, "sold", "shop")
    with pytest.raises(ValueError, match="encoder: expected no names of columns beside it"):
        GroupSampler.from_frame(FRAME, "sold", encoder=encoder())
    with pytest.raises(ValueError, match="encoder: expected one that was fitted on training rows"):
        FrameEncoder(**ROLES).transform(FRAME)


@pytest.mark.filterwarnings("ignore:fit. the evidence of all")  # it is not trained to the end
def test_groups_of_unequal_size():
    frame = pd.DataFrame({"shop": ["one"] + ["two"] * 2 + ["six"] * 6, "sold": range(9)})
    with pytest.raises(
        ValueError,
        match=r"at least n_support \+ 1 = 4 rows .* got 1 in group 'one' \(and 1 more\); n_support=\(0, 3\) takes",
    ):
        GroupSampler.from_frame(frame, "sold", "shop", [], n_support=3)
    tasks = GroupSampler.from_frame(frame, "sold", "shop", [], n_support=(0, 3))
    seen = {}
    for index in range(40):
        batch = tasks.sample(3, index)
        rows = batch.support_mask.sum(1) + batch.num_queries
        for total, support in zip(rows.tolist(), batch.support_mask.sum(1).tolist(), strict=True):
            seen.setdefault(total, set()).add(support)
    assert seen == {1: {0}, 2: {0, 1}, 6: {0, 1, 2, 3}}
    model = EmpiricalBayes.regressor(0, num_steps=0)
    run = ebmeta.fit(model, tasks, 3, objective="evidence", progress=False)
    assert np.isfinite(run.history["loss"]).all()


@pytest.mark.parametrize(
    ("likelihood", "column", "values", "message"),
    [
        ("poisson", "sold", [3, 0, 2, 5, -1, 4], r"y: expected counts 0, 1, 2, ..., got -1 at row 4"),
        ("poisson", "sold", [3, 0, 2, 5.5, 1, 4], r"y: expected counts 0, 1, 2, ..., got 5.5 at row 3"),
        (
            "binomial",
            "days",
            [5, 5, 5, 5, 5, 3],
            "y: expected at most as many successes as trials, got 4 of 3 at row 5",
        ),
        ("binomial", "days", [5, 5.5, 5, 5, 5, 5], "y: expected whole numbers of trials, got 5.5 at row 1"),
        ("bernoulli", "days", [1] * 6, "y: expected rows of one trial each"),
    ],
)
def test_impossible_labels_are_found_before_training(likelihood, column, values, message):
    frame = FRAME.assign(sold=[3, 0, 2, 5, 1, 4], days=5).assign(**{column: values})
    tasks = GroupSampler.from_frame(frame, **ROLES, n_support=1)
    model = EmpiricalBayes.regressor(tasks.X.shape[1], likelihood, num_covariates=2)
    with pytest.raises(ValueError, match=message):
        ebmeta.fit(model, tasks, 1, progress=False)


def test_validation_groups_that_training_has():
    train, other = (
        GroupSampler.from_frame(FRAME.assign(shop=names), "sold", "shop", ["price"], n_support=1)
        for names in (["a"] * 3 + ["b"] * 3, ["b"] * 2 + ["c"] * 4)
    )
    with pytest.raises(ValueError, match="validation: expected groups that training does not have, got 'b' in both"):
        ebmeta.fit(EmpiricalBayes.regressor(1), train, 1, validation=other, progress=False)
    with pytest.raises(ValueError, match=r"validation: .* got 'a' \(and 1 more\) in both"):
        ebmeta.fit(EmpiricalBayes.regressor(1), train, 1, validation=train, progress=False)


def test_an_encoder_from_changed_json_is_refused():
    frame = pd.DataFrame({"kind": ["a", "b"], "x": [1.0, 2.0], "shop": [1, 2], "area": ["p", "q"], "y": [0, 1]})
    config = FrameEncoder("y", "shop", group_features=["area"]).fit(frame).config()
    assert FrameEncoder.from_config(json.loads(json.dumps(config))).config() == config
    for change in (
        {"features": "xy"},
        {"features": {}},
        {"features": [["kind"]]},
        {"features": [["kind", []]]},
        {"features": [["kind", "ab"]]},
        {"features": [["kind", [["a"]]]]},
        {"features": [[None, None]]},
        {"group_features": None},
        {"group_features": ["ab"]},
        {"y": None},
        {"groups": ["shop"]},
        {"size": 1.5},
    ):
        with pytest.raises(ValueError, match=f"expected columns and their levels, got .* for {next(iter(change))}"):
            FrameEncoder.from_config(config | change)
    with pytest.raises(ValueError, match="encoder: expected columns and their levels, got: TypeError"):
        FrameEncoder.from_config([])
    with pytest.raises(ValueError, match="expected one role for each"):
        FrameEncoder.from_config(config | {"size": "x"})
