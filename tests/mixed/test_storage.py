"""A saved fit, read again: the same predictions of known and new groups, bit for bit, and the same tables."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import ebmeta
from ebmeta.mixed.storage import load_fit
from tests.mixed.worlds import frame

RNG = np.random.default_rng(3)
GROUP = RNG.integers(0, 20, 200)
ROWS = pd.DataFrame(
    {
        "x": RNG.normal(size=200),
        "t": RNG.uniform(size=200),
        "kind": pd.Categorical(RNG.choice(list("bca"), 200), categories=["c", "a", "b"], ordered=True),
        "shop": [f"s{g}" for g in GROUP],
        "e": RNG.uniform(1, 2, 200),
        "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(GROUP % 7, unit="D"),
    },
    index=[f"r{i}" for i in range(200)],
)
ROWS["y"] = 1 + ROWS.x + RNG.normal(size=20)[GROUP] + RNG.normal(size=200)
ROWS["count"] = RNG.poisson(np.exp(0.3 + 0.3 * ROWS.x + 0.5 * RNG.normal(size=20)[GROUP]))
ROWS["yes"] = np.where(ROWS.y > 1, "yes", "no")
ROWS.loc["r3", "y"], ROWS.loc["r5", "x"] = np.nan, np.nan
NEW = ROWS.iloc[:30].assign(shop=[f"s{i}" if i < 10 else f"new{i % 3}" for i in range(30)])

FORMULAS = {
    "normal": ("y ~ poly(x, 2) + kind + bs(t, df=5) + scale(e) + (x | shop)", {"reml": True}),
    "array": ("log(y + 10) ~ x + (1 | shop)", {"weights": ROWS.e.to_numpy()}),
    "poisson": ("count ~ scale(x) + kind + (1 | shop)", {"likelihood": "poisson", "size": "e"}),
    "bernoulli": ("yes['yes'] ~ center(x) + (x || shop)", {"likelihood": "bernoulli", "hyperprior": True}),
    "student": ("y ~ x + (1 | day)", {"likelihood": "student_t"}),
    "crossed": ("y ~ x + (1 | shop) + (1 | kind)", {}),
}


@pytest.fixture(scope="module", params=FORMULAS)
def fit(request):
    formula, options = FORMULAS[request.param]
    return ebmeta.mixed_model(formula, ROWS, **options)


@pytest.mark.parametrize("propagated", [False, True])
def test_predictions_and_tables_are_bit_equal(fit, propagated, tmp_path):
    fit = fit.propagate(8) if propagated else fit
    fit.summary()  # asks for further fits, which predictions must not depend on
    new = NEW.assign(day=NEW.day + pd.to_timedelta(np.arange(30) // 10, unit="D"))
    wanted = fit.predict(new)
    assert fit.predict(new).equals(wanted)
    loaded = ebmeta.load(fit.save(tmp_path / "deep" / "fit"))
    assert loaded.predict(new).equals(wanted)
    assert wanted.iloc[0].notna().all()
    assert wanted.iloc[-1].notna().all()
    for name in ("fixed_effects", "variance_components", "group_effects"):
        pd.testing.assert_frame_equal(getattr(loaded, name), getattr(fit, name), check_exact=True)
    assert loaded.summary() == fit.summary()
    assert loaded.design.index.equals(fit.design.index)


def test_another_process_reads_the_same(tmp_path):
    formula, options = FORMULAS["normal"]
    fit = ebmeta.mixed_model(formula, ROWS, **options)
    fit.save(tmp_path / "fit")
    NEW.to_csv(tmp_path / "new.csv", index=False)
    code = (
        "import ebmeta, pandas, sys; new = pandas.read_csv(sys.argv[2]);"
        "print(ebmeta.load(sys.argv[1]).predict(new).to_numpy().tobytes().hex())"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "fit", tmp_path / "new.csv"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.strip() == fit.predict(pd.read_csv(tmp_path / "new.csv")).to_numpy().tobytes().hex()


def test_levels_that_new_rows_lack_or_add_are_those_of_the_training_rows(tmp_path):
    formula, options = FORMULAS["poisson"]
    loaded = ebmeta.load(ebmeta.mixed_model(formula, ROWS, **options).save(tmp_path / "fit"))
    assert loaded.fixed_effects.index.tolist() == ["Intercept", "scale(x)", "kind[a]", "kind[b]"]
    with pytest.raises(ValueError, match="kind"):
        loaded.predict(NEW.assign(kind="z"))


def test_what_cannot_be_kept_is_refused_by_name(tmp_path):
    rows = ROWS.assign(shop=[(g,) for g in GROUP])
    with pytest.raises(ValueError, match="numbers, texts, categories or times in column 'shop', got tuple"):
        ebmeta.mixed_model("y ~ x + (1 | shop)", rows).save(tmp_path / "fit")
    assert not (tmp_path / "fit").exists()


def test_a_folder_of_another_kind_is_refused(tmp_path):
    ebmeta.save(ebmeta.EmpiricalBayes.regressor(2), tmp_path / "model")
    with pytest.raises(ValueError, match="config.json: expected a mixed model, got 'regressor'"):
        load_fit(tmp_path / "model")


def test_a_changed_folder_is_refused(tmp_path):
    folder = ebmeta.mixed_model("y ~ x + (1 | shop)", ROWS).save(tmp_path / "fit")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"reml": false', '"reml": true'))
    with pytest.raises(ValueError, match="expected what was written, got a file that was changed or damaged"):
        ebmeta.load(folder)
    (folder / "config.json").write_text(text)
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-8])
    with pytest.raises(ValueError, match="expected a complete safetensors file written by ebmeta"):
        ebmeta.load(folder)


def test_numbers_given_for_rows_of_the_fit_are_not_taken_for_those_of_others(tmp_path):
    fit = ebmeta.mixed_model("y ~ x + (1 | shop)", ROWS, offset=np.linspace(0, 1, 200))
    for one in (fit, ebmeta.load(fit.save(tmp_path / "fit"))):
        with pytest.raises(
            ValueError, match="offset: expected a column, or a number for each new row as the fit had, got none"
        ):
            one.predict(ROWS)
        assert one.predict(NEW, offset=np.ones(30)).notna().all(axis=1).sum() == 29


def test_the_save_of_models_says_who_saves_a_fit(tmp_path):
    fit = ebmeta.mixed_model("y ~ x + (1 | g)", frame())
    with pytest.raises(
        ValueError, match=r"a mixed model have a save of their own: write fit.save\(folder\)\), got Mixed"
    ):
        ebmeta.save(fit, tmp_path)
