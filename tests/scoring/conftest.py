"""Saved models, and rows of groups for them, some of them labelled."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import ebmeta


@pytest.fixture(scope="session")
def rows() -> pd.DataFrame:
    """Sixty groups of unequal size; of about half of the rows the label is to be predicted."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(3, 9, 60)
    group = np.repeat(np.arange(60), sizes)
    frame = pd.DataFrame({"shop": [f"shop {g:02d}" for g in group], "id": np.arange(len(group)) + 1000})
    frame = frame.assign(price=rng.normal(size=len(group)), kind=rng.choice(["bread", "tea"], len(group)))
    level = rng.normal(size=60)[group] + frame["price"] / 2 + (frame["kind"] == "tea")
    frame["sold"] = level + 0.3 * rng.normal(size=len(group))
    frame.loc[rng.random(len(group)) < 0.5, "sold"] = np.nan
    frame["n"] = frame.groupby("shop")["shop"].transform("size")
    return frame


@pytest.fixture(scope="session")
def shops(rows, tmp_path_factory) -> str:
    """A folder with a briefly trained model of named columns."""
    known = rows[rows["sold"].notna()]
    tasks = ebmeta.GroupSampler.from_frame(
        known, y="sold", groups="shop", features=["price", "kind"], n_support=(0, 2), seed=0
    )
    model = ebmeta.EmpiricalBayes.regressor(num_features=2, num_steps=2)
    ebmeta.fit(model, tasks, 20, device="cpu", progress=False)
    return str(ebmeta.save(model, tmp_path_factory.mktemp("scored") / "shops", tasks.encoder))


@pytest.fixture(scope="session")
def kinds(tmp_path_factory) -> str:
    """A folder with the classifier that ships with the package."""
    return str(ebmeta.save(ebmeta.general_classifier(), tmp_path_factory.mktemp("scored") / "kinds"))
