"""Names and kinds of rows, labels and keys: the same for every sort of frame, and nothing is guessed."""

import copy
import datetime
import decimal
import pickle
import warnings

import numpy as np
import pandas as pd
import polars
import pyarrow
import pytest
import torch
from scipy import sparse

import ebmeta
from ebmeta import EmpiricalBayes, EpisodeSampler, FewShotClassifier, FewShotRegressor, GroupSampler
from ebmeta.tasks.columns import check_names, read_column, read_keys, read_rows

FRAMES = {"pandas": pd.DataFrame, "polars": polars.DataFrame, "pyarrow": pyarrow.table}


def shops(num=30, rows=8, seed=0):
    """Rows of groups whose weights differ: price matters, size does not quite."""
    rng = np.random.default_rng(seed)
    shop = np.repeat(np.arange(num), rows)
    x = {"price": rng.normal(size=len(shop)), "size": 10 * rng.normal(size=len(shop))}
    y = rng.normal(size=num)[shop] + 2 * x["price"] - 0.1 * x["size"] + 0.1 * rng.normal(size=len(shop))
    return x, y, shop


@pytest.fixture(scope="module")
def regressor():
    x, y, shop = shops()
    model = EmpiricalBayes.regressor(2, num_steps=0)
    ebmeta.fit_evidence(model, GroupSampler(pd.DataFrame(x), y, shop, n_support=2), boundary=False)
    return model


@pytest.fixture(scope="module")
def classifier():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(6), 12)
    X = pd.DataFrame(rng.normal(size=(72, 2)) + rng.normal(size=(6, 2))[y], columns=["price", "size"])
    model = EmpiricalBayes.classifier(2, num_steps=1)
    ebmeta.fit(model, EpisodeSampler(X, y, 3, 2, 3), 2, progress=False, device="cpu")
    return model


def pick(x, names, rows=slice(None)):
    return {name: x[name][rows] for name in names}


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("estimator", ["regressor", "classifier"])
def test_columns_in_another_order_or_of_other_names_are_refused(request, estimator, kind):
    model, frame = request.getfixturevalue(estimator), FRAMES[kind]
    x, y, _ = shops(1)
    face = (FewShotRegressor if estimator == "regressor" else FewShotClassifier)(model)
    target = y if estimator == "regressor" else np.arange(8) % 2
    face.fit(frame(pick(x, ["price", "size"])), target)
    assert face.feature_names_in_.tolist() == ["price", "size"]
    assert face.n_features_in_ == 2
    plain = clone_without_names(face).predict(np.stack(list(x.values()), 1))
    np.testing.assert_array_equal(face.predict(frame(x)), plain)
    with pytest.raises(ValueError, match="feature names should match .* fit.\nFeature names must be in the same"):
        face.predict(frame(pick(x, ["size", "price"])))
    with pytest.raises(
        ValueError, match="unseen at fit time:\n- cost\nFeature names seen at fit time, yet now missing"
    ):
        face.predict(frame({"cost": x["price"], "size": x["size"]}))
    with pytest.raises(ValueError, match="the model was trained; got the same names in another order: size, price"):
        face.fit(frame(pick(x, ["size", "price"])), target)
    with pytest.raises(ValueError, match="trained; got unseen then: cost; seen then, yet now missing: price"):
        face.fit(frame({"cost": x["price"], "size": x["size"]}), target)


def clone_without_names(face):
    """Return the same estimator fitted on an array."""
    other = copy.copy(face)
    return other.fit(face.support_X_.numpy(), face.support_y_.numpy())


def test_a_model_keeps_the_names_of_its_columns(regressor, tmp_path):
    assert regressor.feature_names == ["price", "size"]
    for model in (ebmeta.load(ebmeta.save(regressor, tmp_path / "m")), pickle.loads(pickle.dumps(regressor))):
        assert model.feature_names == ["price", "size"]
    x, y, shop = shops(6)
    swapped = GroupSampler(pd.DataFrame(x)[["size", "price"]], y, shop + 100, n_support=2)
    named = GroupSampler(pd.DataFrame(x), y, shop, n_support=2)
    with pytest.warns(UserWarning, match="not at a maximum"):  # of these six groups
        ensemble = ebmeta.propagate(regressor, named, num_draws=2)
    assert ensemble.feature_names == ensemble.members[0].feature_names == ["price", "size"]
    for use in (
        lambda: ebmeta.evaluate(regressor, swapped, 2),
        lambda: ebmeta.fit(regressor, swapped, 1, progress=False),
        lambda: ebmeta.fit(EmpiricalBayes.regressor(2), named, 1, validation=swapped, progress=False),
        lambda: ebmeta.fit_evidence(regressor, swapped),
        lambda: ebmeta.Novelty(regressor).fit(swapped, 3),
    ):
        with pytest.raises(ValueError, match="The feature names should match .* the same names in another order"):
            use()
    assert EmpiricalBayes.regressor(2).feature_names is None


def test_covariates_of_groups_are_compared_by_name(tmp_path):
    x, y, shop = shops(6)
    rng = np.random.default_rng(1)
    of_shop = pd.DataFrame(rng.normal(size=(6, 2)), columns=["area", "staff"], index=sorted(set(shop)))
    plain = {"n_support": 2}
    named = GroupSampler(pd.DataFrame(x), y, shop, group_X=of_shop.loc[shop], **plain)
    other = GroupSampler(pd.DataFrame(x), y, shop + 100, group_X=of_shop.loc[shop][["staff", "area"]], **plain)
    assert named.covariate_names == ["area", "staff"]
    assert (
        named.fingerprint()
        != GroupSampler(pd.DataFrame(x), y, shop, group_X=of_shop.loc[shop].to_numpy()).fingerprint()
    )
    model = EmpiricalBayes.regressor(2, num_steps=0, num_covariates=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ebmeta.fit_evidence(model, named, boundary=False)
    loaded = ebmeta.load(ebmeta.save(model, tmp_path / "m"))
    assert model.covariate_names == loaded.covariate_names == ["area", "staff"]
    face = ebmeta.FewShotRegressor(loaded)
    swapped = {g: of_shop.loc[g, ["staff", "area"]] for g in of_shop.index}
    for use in (
        lambda: ebmeta.evaluate(loaded, other, 2),
        lambda: ebmeta.fit(loaded, other, 1, progress=False),
        lambda: ebmeta.fit(EmpiricalBayes.regressor(2, num_covariates=2), named, 1, validation=other, progress=False),
        lambda: face.fit(pd.DataFrame(x), y, groups=shop, group_x=swapped),
        lambda: face.fit(pd.DataFrame(x), y, group_x=of_shop.loc[shop[0], ["staff", "area"]]),
    ):
        with pytest.raises(ValueError, match="The covariate names should match .* the same names in another order"):
            use()
    right = {g: of_shop.loc[g] for g in of_shop.index}
    unnamed = {g: of_shop.loc[g].to_numpy() for g in of_shop.index}
    first, second = (
        face.fit(pd.DataFrame(x), y, groups=shop, group_x=v).predict(pd.DataFrame(x), groups=shop)
        for v in (right, unnamed)
    )
    assert np.array_equal(first, second)
    other = copy.deepcopy(model)
    other.covariate_names = ["area"]
    with pytest.raises(ValueError, match=r"config.json: expected the names of 2 columns, got \['area'\]"):
        ebmeta.load(ebmeta.save(other, tmp_path / "n"))


def test_conformal_sets_and_mixed_samplers_compare_names(classifier):
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 2)), columns=["size", "price"])
    tasks = EpisodeSampler(X, np.repeat(range(4), 10), 2, 1, 2)
    with pytest.raises(ValueError, match="The feature names should match"):
        ebmeta.ConformalSets(classifier).calibrate(tasks, 4)
    other = EpisodeSampler(X[["price", "size"]], np.repeat(range(4), 10), 2, 1, 2)
    with pytest.raises(ValueError, match="The feature names should match .* for the first sampler"):
        ebmeta.MixedSampler([tasks, other])
    assert ebmeta.MixedSampler([tasks, tasks]).feature_names == ["size", "price"]


def test_a_folder_whose_names_were_changed_is_refused(regressor, tmp_path):
    config = ebmeta.save(regressor, tmp_path / "m") / "config.json"
    config.write_text(config.read_text().replace('"price"', '"prize"'))
    with pytest.raises(ValueError, match="config.json: expected what was written, got a file that was changed"):
        ebmeta.load(tmp_path / "m")
    other = copy.deepcopy(regressor)
    other.feature_names = ["size"]
    with pytest.raises(ValueError, match=r"config.json: expected the names of 2 columns, got \['size'\]"):
        ebmeta.load(ebmeta.save(other, tmp_path / "n"))


MASKED = np.ma.MaskedArray(np.ones((4, 2)), mask=[[0, 0], [0, 0], [0, 1], [0, 0]])


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (MASKED, "X: expected a value in every place, got a masked one in row 2, column 1"),
        (list(MASKED), "X: expected a value in every place, got a masked one in row 2"),
        (np.array([[1, 2], [3, "x"]], dtype=object), "X: expected numbers, got the text 'x' in row 1, column 1"),
        (np.array([["1", "2"]]), "X: expected numbers, got the text '1' in row 0, column 0"),
        (np.array([[1, None]], dtype=object), "X: expected numbers, got no value in row 0, column 1"),
        (np.ones((2, 2), dtype=complex), "X: expected real numbers, got complex128"),
        (np.array([["2020-01-01"]], dtype="datetime64[D]"), "X: expected numbers, got the time 2020-01-01"),
        ([[1.0, 2.0], [3.0]], "X: expected an array of numbers, got list of parts of unequal shape"),
        (sparse.csr_matrix(np.eye(2)), r"X: expected a dense array, got a sparse csr_matrix; call its toarray\(\)"),
        (sparse.coo_array(np.eye(2)), "X: expected a dense array, got a sparse coo_array"),
        (torch.eye(2).to_sparse(), r"X: expected a dense array, got a sparse Tensor; .* its to_dense\(\)"),
        (np.ones(3), r"X: expected a numeric array of shape \(rows, features...\), .* reshape\(1, -1\) one row"),
        (np.array([[0.0, np.nan]]), "X: expected finite numbers, got NaN or infinity at row 0, column 1"),
        (pd.DataFrame({"a": [1.0, np.inf]}), "X: expected finite numbers, got NaN or infinity at row 1, column 'a'"),
        (
            pd.DataFrame({"a": [1, pd.NA]}, dtype="Int64"),
            "X: expected a number .* got none .NaN. in row 1, column 'a'",
        ),
        (
            pd.DataFrame({"a": [1.0, 2.0], "b": ["u", "v"]}),
            "expected numbers, got the text 'u' in row 0, column 'b'",
        ),
        (pd.DataFrame({"a": pd.date_range("2020", periods=1)}), "X: expected numbers, got the time .* column 'a'"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "X: expected columns of distinct names, got 'a' twice"),
        (pd.DataFrame([[1, 2]], columns=["a", 1]), "X: expected names of columns that are all texts, got 1"),
        (polars.DataFrame({"a": [1, None]}), "X: expected finite numbers, got NaN or infinity at row 1, column 'a'"),
        (polars.DataFrame({"a": [1]}).lazy(), "X: expected a frame in memory, got a lazy polars frame: collect it"),
        (pyarrow.table({"a": ["u"]}), "X: expected numbers, got the text 'u' in row 0, column 'a'"),
    ],
)
def test_rows_that_are_no_numbers(X, message):
    with pytest.raises(ValueError, match=message):
        read_rows("X", X)


def test_rows_of_every_kind_are_the_same_numbers():
    x = {"a": [1, 2], "b": [0.5, -1.0], "c": [True, False]}
    expected = [[1.0, 0.5, 1.0], [2.0, -1.0, 0.0]]
    frames = [make(x) for make in FRAMES.values()]
    frames.append(pd.DataFrame(x).astype({"a": "Int64", "b": "Float32", "c": "boolean"}))
    frames.append(pd.DataFrame(x).astype(object))
    for frame in frames:
        array, names = read_rows("X", frame)
        assert array.tolist() == expected
        assert names == ["a", "b", "c"]
    for plain in (expected, np.array(expected, dtype=object), np.ma.MaskedArray(expected), torch.tensor(expected)):
        array, names = read_rows("X", plain)
        assert array.tolist() == expected
        assert names is None
    assert read_rows("X", pd.DataFrame(expected))[1] is None  # numbers are places, not names
    precise = 1_700_000_000 + np.arange(3.0)
    assert (read_rows("X", polars.DataFrame({"t": precise}))[0][:, 0] == precise).all()


@pytest.mark.parametrize(
    "missing",
    [None, np.nan, float("nan"), pd.NA, pd.NaT, np.datetime64("NaT"), np.float64("nan")],
    ids=["None", "nan", "float", "NA", "NaT", "datetime", "float64"],
)
def test_missing_keys_are_refused_with_the_row(missing, regressor):
    x = np.zeros((4, 2))
    keys = {"text": ["a", "b", missing, "a"], "number": [1, 2, missing, 1]}
    for values in keys.values():
        for given in (values, np.array(values, dtype=object), pd.Series(values, dtype=object)):
            with pytest.raises(ValueError, match="groups: expected a label in every row, got none in row 2"):
                GroupSampler(x, np.zeros(4), given, n_support=(0, 1))
            with pytest.raises(ValueError, match="groups: expected a label in every row, got none in row 2"):
                FewShotRegressor(regressor).fit(x, np.zeros(4), groups=given)
            with pytest.raises(ValueError, match="y: expected one column of class labels .* got none in row 2"):
                EpisodeSampler(x, given, 1, 1, 1)
    covered = EmpiricalBayes.regressor(2, num_covariates=1)
    with pytest.raises(ValueError, match="group_x: expected a label in every row, got none in row 1"):
        FewShotRegressor(covered).fit(x, np.zeros(4), groups=list("aabb"), group_x={"a": [1.0], missing: [2.0]})


def test_missing_keys_of_typed_columns():
    dates = np.repeat(np.arange("2024-01-01", "2024-01-11", dtype="datetime64[D]"), 6)
    dates[0] = "NaT"
    sites = np.repeat(np.arange(10.0), 6)
    sites[[3, 10]] = np.nan
    x, y = np.zeros((60, 0)), np.zeros(60)
    typed = [
        (dates, r"row 0$"),
        (sites, r"row 3 \(and 1 more rows\)"),
        (pd.Series(sites), "row 3"),
        (pd.Series(sites).astype("Int64"), "row 3"),
        (polars.Series(np.where(np.isnan(sites), None, sites)), "row 3"),
        (pyarrow.array([None if np.isnan(s) else int(s) for s in sites]), "row 3"),
        (np.ma.MaskedArray(np.arange(60), mask=np.arange(60) == 3), "masked one in row 3"),
        (pd.Series(np.where(np.isnan(sites), None, "a")).astype("category"), "row 3"),
    ]
    for groups, message in typed:
        with pytest.raises(ValueError, match=message):
            GroupSampler(x, y, groups, n_support=(0, 3))
    complete = np.repeat(np.arange("2024-01-01", "2024-01-11", dtype="datetime64[D]"), 6)
    assert len(GroupSampler(x, y, complete, n_support=(0, 3)).groups) == 10


def test_keys_are_compared_as_they_are(regressor):
    x, y = np.zeros((4, 2)), np.zeros(4)
    reg = FewShotRegressor(regressor)
    for known, new, words in (
        ([1, 1, 2, 2], ["1", "1", "2", "2"], "numbers such as 1, got the text '1'"),
        (["031"] * 4, [31] * 4, "texts such as '031', got the number 31"),
        ([1.0, 1.0, 2.0, 2.0], list("1122"), "numbers such as 1.0, got the text '1'"),
        (pd.date_range("2024", periods=4), ["2024-01-01"] * 4, "times such as .*, got the text '2024-01-01'"),
    ):
        with pytest.raises(ValueError, match=f"groups: expected labels of the kind that fit was given, {words}"):
            reg.fit(x, y, groups=known).predict(x, groups=new)
    with pytest.raises(ValueError, match="labels of one kind, got the number 1 in row 0 and the text 'a' in row 2"):
        reg.fit(x, y, groups=[1, 1, "a", "a"])
    with pytest.raises(ValueError, match="y: expected one column of class labels .* the number 1 in row 0 and"):
        EpisodeSampler(x, [1, 1, "a", "a"], 2, 1, 1)


def test_a_truth_value_is_no_number_and_a_list_no_key(regressor):
    x, y = np.zeros((4, 2)), np.zeros(4)
    reg = FewShotRegressor(regressor)
    with pytest.raises(ValueError, match="one kind, got the truth value True in row 0 and the number 1 in row 2"):
        reg.fit(x, y, groups=[True, True, 1, 1])
    with pytest.raises(ValueError, match="truth values such as True, got the number 1"):
        reg.fit(x, y, groups=np.array([True, True, False, False])).predict(x, groups=[1, 1, 0, 0])
    with pytest.raises(ValueError, match=r"groups: expected hashable labels, got the list \['a'\] in row 0"):
        reg.fit(x, y, groups=[["a"]] * 4)


def test_texts_of_many_digits_are_groups_in_the_order_of_their_numbers():
    long = "9" * 5000
    names = np.array([long, "10", "2", "03", "b", "a", "10", long], dtype=object)
    sampler = GroupSampler(np.zeros((8, 1)), np.zeros(8), names, n_support=(0, 1))
    assert sampler.groups.tolist() == ["2", "03", "10", long, "a", "b"]


@pytest.mark.parametrize("labels", [[2019, 2020], pd.MultiIndex.from_tuples([("q", "a"), ("q", "b")])])
def test_columns_whose_labels_are_no_texts_are_compared_too(labels):
    x, y = np.random.default_rng(0).normal(size=(4, 2)), np.arange(4.0)
    frame = pd.DataFrame(x, columns=labels)
    reg = FewShotRegressor(EmpiricalBayes.regressor(2)).fit(frame, y)
    assert reg.feature_names_in_.tolist() == [str(c) for c in labels]
    np.testing.assert_array_equal(reg.predict(frame), clone_without_names(reg).predict(x))
    with pytest.raises(ValueError, match="feature names should match"):
        reg.predict(frame.iloc[:, ::-1])


def test_columns_that_are_numbered_are_in_order(regressor):
    x, y = np.random.default_rng(0).normal(size=(4, 2)), np.arange(4.0)
    reg = FewShotRegressor(regressor).fit(pd.DataFrame(x), y)
    np.testing.assert_array_equal(reg.predict(pd.DataFrame(x)), reg.predict(x))
    with pytest.raises(ValueError, match="X: expected columns numbered 0, 1, ... in this order, got 1 first"):
        reg.predict(pd.DataFrame(x)[[1, 0]])


def test_a_missing_value_among_texts_is_no_group_called_nan():
    x, mixed = np.zeros((4, 1)), np.array(["a", "a", np.nan, "a"])
    assert mixed.tolist()[2] == "nan"  # NumPy's doing
    for use in (
        lambda: GroupSampler(x, np.zeros(4), mixed, n_support=(0, 1)),
        lambda: EpisodeSampler(x, mixed, 1, 1, 1),
    ):
        with pytest.raises(ValueError, match="a label in every row, got the text 'nan' in row 2"):
            use()


@pytest.mark.parametrize("blank", ["", " ", "\t"])
def test_an_empty_text_is_no_label(blank):
    x, given = np.zeros((5, 1)), np.array(["a", blank, "a", blank, "a"])
    for use in (
        lambda: GroupSampler(x, np.zeros(5), given, n_support=(0, 1)),
        lambda: EpisodeSampler(x, given, 1, 1, 1),
        lambda: FewShotClassifier().fit(x, given),
        lambda: FewShotClassifier().fit(x, given, anchors={"b": [1.0]}),
    ):
        with pytest.raises(
            ValueError, match=r"a label in every row, got the text .* in row 1 \(and 1 more rows\)(;|$)"
        ):
            use()
    with pytest.raises(ValueError, match="anchors: expected a label in every row, got the text .* in row 0$"):
        FewShotClassifier().fit(anchors={blank: [0.0]})


@pytest.mark.parametrize("kind", ["polars", "polars categories", "pyarrow", "nullable", "arrow in pandas"])
def test_frames_of_every_sort_become_the_same_tasks(kind):
    rng = np.random.default_rng(0)
    columns = {
        "kind": list("abc") * 4,
        "open": [True, False] * 6,
        "price": rng.normal(size=12),
        "shop": np.repeat(["s2", "s1", "s3"], 4).tolist(),
        "area": np.repeat([1, 2, 3], 4),
        "sold": rng.integers(0, 9, 12),
    }
    plain = pd.DataFrame(columns)
    frame = {
        "polars": lambda: polars.DataFrame(columns),
        "polars categories": lambda: polars.DataFrame(columns).with_columns(
            polars.col("kind", "shop").cast(polars.Categorical)
        ),
        "pyarrow": lambda: pyarrow.table(columns),
        "nullable": lambda: plain.convert_dtypes(),
        "arrow in pandas": lambda: plain.convert_dtypes(dtype_backend="pyarrow"),
    }[kind]()
    roles = {"y": "sold", "groups": "shop", "group_features": ["area"]}
    expected = GroupSampler.from_frame(plain, **roles, n_support=1)
    got = GroupSampler.from_frame(frame, **roles, n_support=1)
    assert got.feature_names == expected.feature_names == ["kind_b", "kind_c", "open", "price"]
    assert got.groups.tolist() == ["s1", "s2", "s3"]
    for name in ("X", "y", "group_X"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))
    np.testing.assert_array_equal(expected.encoder.transform(frame), expected.X)
    assert {k: v.tolist() for k, v in expected.encoder.group_x(frame).items()} == {
        "s2": [1.0],
        "s1": [2.0],
        "s3": [3.0],
    }


def test_equal_numbers_are_one_group_whatever_their_type(regressor):
    x, y, shop = shops(3, seed=1)
    X = np.stack(list(x.values()), 1)
    reg = FewShotRegressor(regressor).fit(X[::2], y[::2], groups=shop[::2])
    expected = reg.predict(X[1::2], groups=shop[1::2])
    for kind in (np.float64, np.int8, np.uint64, object):
        np.testing.assert_array_equal(reg.predict(X[1::2], groups=shop[1::2].astype(kind)), expected)
    for series in (pd.Series(shop[1::2], dtype="Int64"), polars.Series(shop[1::2]), pyarrow.array(shop[1::2])):
        np.testing.assert_array_equal(reg.predict(X[1::2], groups=series), expected)
    np.testing.assert_array_equal(reg.predict(X[1::2], groups=torch.tensor(shop[1::2])), expected)


def test_no_group_found_is_said(regressor):
    x, y = np.zeros((4, 2)), np.zeros(4)
    reg = FewShotRegressor(regressor).fit(x, y, groups=["031", "031", "032", "032"])
    with pytest.warns(UserWarning, match="none of the 2 groups of X, such as '31', is among the 2 with labelled rows"):
        reg.predict(x, groups=["31", "31", "32", "32"])
    with pytest.warns(UserWarning, match="^groups: '32' counts as new, and differs from '032' of the known groups"):
        reg.predict(x, groups=["031", "31 a", "32", "32"])
    reg.predict(x, groups=["031", "031", "new", "new"])  # legal: the prior speaks for the new one; warnings are errors


def test_labels_and_sizes_that_are_masked_or_texts(regressor):
    x, y = np.zeros((3, 2)), np.ma.MaskedArray([1.0, 2.0, 999.0], mask=[0, 0, 1])
    for use in (
        lambda: FewShotRegressor(regressor).fit(x, y),
        lambda: GroupSampler(x, y, [1, 1, 1], n_support=1),
    ):
        with pytest.raises(ValueError, match="y: expected a value in every place, got a masked one in row 2"):
            use()
    for use in (
        lambda: FewShotRegressor(regressor).fit(x, [1.0, 2.0, 3.0], size=y),
        lambda: GroupSampler(x, [1.0, 2.0, 3.0], [1, 1, 1], n_support=1, size=y),
    ):
        with pytest.raises(ValueError, match="size: expected a value in every place, got a masked one in row 2"):
            use()
    with pytest.raises(ValueError, match="got a masked one in row 2"):
        EpisodeSampler(x, np.ma.MaskedArray([0, 0, 1], mask=[0, 0, 1]), 1, 1, 1)
    with pytest.raises(ValueError, match="y: expected numbers, got the text '2' in row 1"):
        read_column("y", [1.0, "2", 3.0])
    assert read_column("y", polars.Series([1, 2])).tolist() == [1, 2]
    for values in (
        [datetime.date(2024, 1, 1)],
        np.array(["2024-01-01"], "datetime64[D]"),
        polars.Series(["2024-01-01"]).str.to_date(),
    ):
        assert read_keys("groups", values) == [pd.Timestamp("2024-01-01")]
    assert read_keys("groups", (k for k in "ab")) == read_keys("groups", {"a": 1, "b": 2}.keys()) == ["a", "b"]
    assert read_keys("groups", [(1,), (1, 2)]) == [(1,), (1, 2)]
    for bad in (pd.Series([1, pd.NA], dtype="Int64"), [1, None], np.array([1, pd.NaT], dtype=object)):
        with pytest.raises(ValueError, match="y: expected .*numbers, got (no value in|NaN or infinity at) row 1"):
            read_column("y", bad)
    with pytest.raises(ValueError, match="y: expected numbers of 64 bits, got a larger one"):
        read_column("y", [10**400, 1])
    assert read_column("y", [decimal.Decimal("1.5"), 2]).tolist() == [1.5, 2.0]
    with pytest.raises(TypeError, match="y: expected numbers, got the dict {} in row 1"):
        read_column("y", [1, {}])
    for bad in ("abc", None, 3, np.array("abc")):
        with pytest.raises(ValueError, match="groups: expected one label for each row, got"):
            read_keys("groups", bad)


def test_messages_of_training_name_the_column(regressor):
    frame = pd.DataFrame({"price": [1.0, 2.0, 3.0, 4.0], "size": [100.0, 200.0, 300.0, 400.0]})
    tasks = GroupSampler(frame, [0.0, 1.0, 0.0, 1.0], [1, 1, 2, 2], n_support=1)
    with pytest.raises(ValueError, match="a root mean square of .* in feature 'size'"):
        ebmeta.fit(EmpiricalBayes.regressor(2, standardize=False), tasks, 1, progress=False)
    check_names(None, ["a"], "then")
    check_names(["a"], None, "then")


@pytest.mark.filterwarnings("ignore:X has feature names")  # what scikit-learn says of the support set
def test_a_trained_model_knows_its_columns_where_the_support_set_had_no_names(regressor):
    x, y, _ = shops(1)
    plain = FewShotRegressor(regressor).fit(np.stack([x["price"], x["size"]], 1)[:4], y[:4])
    with pytest.raises(ValueError, match="when the model was trained; got the same names in another order"):
        plain.predict(pd.DataFrame(pick(x, ("size", "price"), slice(4, 8))))


def test_tensors_in_a_list_are_rows_whatever_their_type_and_gradient():
    rows = [torch.tensor([1.5, 2.0], requires_grad=True), torch.tensor([3.0, 4.0], dtype=torch.bfloat16)]
    assert read_rows("X", rows)[0].tolist() == [[1.5, 2.0], [3.0, 4.0]]
    assert read_column("y", [torch.tensor(1.5, requires_grad=True), 2.0]).tolist() == [1.5, 2.0]
