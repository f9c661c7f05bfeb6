"""An absent package is told in one line that says which extra brings it, and extras bring what they are named for."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest
from absent import without

from ebmeta.foundation.extras import DISTRIBUTION, EXTRAS, MissingPackageError, need

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("pyarrow", 'pyarrow: expected the package, found none; pip install "ebmeta-bayes[parquet]"'),
        ("jax.numpy", 'jax: expected the package, found none; pip install "ebmeta-bayes[numpyro]"'),
        ("numpyro", 'numpyro: expected the package, found none; pip install "ebmeta-bayes[numpyro]"'),
    ],
)
def test_an_absent_package_is_told_by_the_extra_that_brings_it(monkeypatch, module, said):
    for name in [name for name in sys.modules if name.partition(".")[0] in EXTRAS]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", without(sys.meta_path, [module.partition(".")[0]]))
    with pytest.raises(MissingPackageError, match=f"^{re.escape(said)}$"):
        need(module)


def test_what_no_extra_brings_is_an_error_like_any_other():
    with pytest.raises(ModuleNotFoundError, match="^No module named 'nothing_at_all'$"):
        need("nothing_at_all")


def test_a_package_that_lacks_a_part_is_not_called_absent():
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'pyarrow\.nothing'$"):
        need("pyarrow.nothing")


def test_extras_bring_the_packages_that_are_told():
    optional = PROJECT["optional-dependencies"]
    for package, extra in EXTRAS.items():
        assert any(re.match(rf"{package}\b", requirement) for requirement in optional[extra]), package
    core = {re.split(r"[>=\[]", requirement)[0] for requirement in PROJECT["dependencies"]}
    assert core.isdisjoint(EXTRAS)
    assert optional["all"] == [f"{DISTRIBUTION}[{','.join(dict.fromkeys(EXTRAS.values()))}]"]
    assert PROJECT["name"] == DISTRIBUTION
