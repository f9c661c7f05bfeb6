"""Files and briefly trained models for the command line; no test writes to those of the session."""

import numpy as np
import pandas as pd
import pytest
from builders import classifier
from commands import run

import ebmeta


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Twelve classes and twenty groups in files, and two briefly trained models."""
    folder = tmp_path_factory.mktemp("cli")
    rng = np.random.default_rng(0)
    centre = 2 * rng.standard_normal((12, 6))
    y = np.repeat(np.arange(12), 30)
    X = centre[y] + rng.standard_normal((len(y), 6))
    names = np.array([f"class {c:02d}" for c in range(12)])
    np.savez(folder / "train.npz", X=X[:240], y=names[y[:240]])
    frame = pd.DataFrame(X[240:], columns=list("abcdef")).assign(y=names[y[240:]])
    frame.to_csv(folder / "new.csv", index=False)
    support = frame.groupby("y").head(1)
    support.to_csv(folder / "support.csv", index=False)
    frame.drop(support.index).to_parquet(folder / "query.parquet", index=False)
    school = np.repeat(np.arange(20), 8)
    x = rng.standard_normal(160)
    score = (1 + 0.3 * rng.standard_normal(20))[school] * x + 0.2 * rng.standard_normal(160)
    pd.DataFrame({"x": x, "score": score, "school": school}).to_csv(folder / "schools.csv", index=False)
    common = ["--num-iterations", "30", "--device", "cpu", "--no-progress"]
    assert run("train", folder / "train.npz", "--output", folder / "model", "--n-query", "6", *common) == 0
    schools = ["--groups", "school", "--label", "score", "--n-shot", "1:3"]
    assert run("train", folder / "schools.csv", "--output", folder / "groups", *schools, *common) == 0
    return folder


@pytest.fixture(scope="session")
def shops(tmp_path_factory):
    """Shops with counts, exposure, texts and a covariate in files, and a briefly trained model."""
    folder = tmp_path_factory.mktemp("shops")
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 12, 30)
    shop = np.repeat([f"shop {i:02d}" for i in range(30)], sizes)
    area = np.repeat(rng.choice(["town", "village"], 30), sizes)
    frame = pd.DataFrame({"kind": rng.choice(["bread", "cake", "tea"], len(shop)), "shop": shop, "area": area})
    frame = frame.assign(price=rng.normal(size=len(shop)), days=rng.integers(1, 5, len(shop)))
    frame = frame.assign(sold=rng.poisson(frame["days"] * np.exp(0.5 * frame["price"] + (frame["area"] == "town"))))
    known = frame["shop"] < "shop 25"
    frame[known].to_csv(folder / "train.csv", index=False)
    frame[~known].to_parquet(folder / "new.parquet", index=False)
    roles = ["--groups", "shop", "--label", "sold", "--size", "days", "--group-features", "area", "--n-shot", "0:3"]
    common = ["--likelihood", "poisson", "--num-steps", 0, "--num-iterations", 30, "--device", "cpu", "--no-progress"]
    assert run("train", folder / "train.csv", "--output", folder / "model", *roles, *common) == 0
    return folder


@pytest.fixture(scope="session")
def sites(tmp_path_factory):
    """Forty sites with ids such as 031 that differ in their level, and a model of thirty of them."""
    folder = tmp_path_factory.mktemp("sites")
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(40), 6)
    frame = pd.DataFrame({"site": [f"{k + 1:03d}" for k in g], "x": rng.normal(size=240), "z": rng.normal(size=240)})
    frame["y"] = 1 + 3 * rng.normal(size=40)[g] + frame["x"] - 2 * frame["z"] + 0.3 * rng.normal(size=240)
    tasks = ebmeta.GroupSampler.from_frame(frame[:180], y="y", groups="site", n_support=3)
    model = ebmeta.EmpiricalBayes.regressor(2, num_steps=0)
    ebmeta.fit_evidence(model, tasks, boundary=False)
    ebmeta.save(model, folder / "model", encoder=tasks.encoder)
    known = frame[180:].groupby("site").head(3)
    return folder / "model", known, frame[180:].drop(known.index)


@pytest.fixture(scope="session")
def classes(tmp_path_factory):
    """Six classes of named columns, and a model of them."""
    folder = tmp_path_factory.mktemp("classes")
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(6), 10)
    frame = pd.DataFrame(2 * rng.normal(size=(6, 3))[y] + rng.normal(size=(60, 3)), columns=["a", "b", "c"])
    frame["y"] = np.array(["01", "02", "03", "04", "05", "06"])[y]
    frame.to_csv(folder / "train.csv", index=False)
    common = ["--n-way", 3, "--n-query", 5, "--num-iterations", 3, "--device", "cpu", "--no-progress"]
    assert run("train", folder / "train.csv", "--output", folder / "model", *common) == 0
    return folder, frame


@pytest.fixture
def plain_files(tmp_path):
    """Six classes in a file, labelled rows and rows to predict, and a model that was not trained."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(6), 12)
    frame = pd.DataFrame(2 * rng.standard_normal((6, 4))[y] + rng.standard_normal((72, 4)), columns=list("abcd"))
    frame = frame.assign(y=[f"c{k}" for k in y])
    frame.to_csv(tmp_path / "data.csv", index=False)
    frame.groupby("y").head(1).to_csv(tmp_path / "support.csv", index=False)
    frame[1::5].drop(columns="y").to_csv(tmp_path / "query.csv", index=False)
    ebmeta.save(classifier().float(), tmp_path / "model")
    (tmp_path / "mine.txt").write_text("mine")
    return tmp_path
