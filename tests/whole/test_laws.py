"""Every member of every family obeys the laws of `laws.py`."""

from __future__ import annotations

import gc
import importlib
import pkgutil
from collections.abc import Callable, Iterator

import pytest
import torch
from builders import class_tasks
from laws import LAWS, MEMBERS, outcome, relabelling_permutes_classes

import ebmeta.likelihood
import ebmeta.parts.initializer
import ebmeta.refine.base
from ebmeta import EmpiricalBayes

CASES = [
    pytest.param(law, member, id=f"{law.__name__}-{name}")
    for law, binds in LAWS.items()
    for name, member in MEMBERS.items()
    if binds(member)
]


#: Bases of the parts of a model, and where a model has its own.
PARTS = [
    (ebmeta.likelihood.Likelihood, lambda m: m.likelihood),
    (ebmeta.parts.prior.Prior, lambda m: m.prior),
    (ebmeta.parts.heads.Head, lambda m: m.predictor),
    (ebmeta.parts.basis.Basis, lambda m: getattr(m.predictor, "basis", None)),
    (ebmeta.parts.initializer.Initializer, lambda m: m.initializer),
    (ebmeta.refine.base.Refiner, lambda m: m.refiner),
    (ebmeta.refine.base.SyntheticGradient, lambda m: m.refiner.synthetic_gradient),
]
NO_MEMBER = {ebmeta.likelihood.ScalarLikelihood}  # what several likelihoods have in common


def descendants(base: type) -> Iterator[type]:
    for c in base.__subclasses__():
        yield c
        yield from descendants(c)


def without_a_member(base: type, part: Callable[[EmpiricalBayes], object]) -> set[type]:
    """Return the public classes of the package under a base of which no member is built."""
    for stage in (ebmeta.likelihood, ebmeta.parts, ebmeta.refine):
        for module in pkgutil.iter_modules(stage.__path__, f"{stage.__name__}."):
            importlib.import_module(module.name)
    known = {c for c in descendants(base) if c.__module__.startswith("ebmeta.") and not c.__name__.startswith("_")}
    return known - NO_MEMBER - {type(part(member.build())) for member in MEMBERS.values()}


@pytest.mark.parametrize(("law", "member"), CASES)
def test_law(law, member):
    law(member)


@pytest.mark.parametrize(("base", "part"), PARTS)
def test_the_table_has_every_class(base, part):
    assert without_a_member(base, part) == set()


@pytest.mark.parametrize(("base", "part"), PARTS)
def test_a_class_without_a_member_is_missed(base, part):
    new = type("New", (base,), {"__module__": "ebmeta.refine.new"})
    assert without_a_member(base, part) == {new}
    del new
    gc.collect()  # a class is a circle of references: the next test would find it


def test_the_per_query_network_depends_on_class_order():
    with pytest.raises(AssertionError, match="not close"):
        relabelling_permutes_classes(MEMBERS["classifier-mlp"])


def test_the_per_query_network_is_for_one_number_of_ways():
    model = MEMBERS["classifier-mlp"].build()
    with pytest.raises(ValueError, match=r"built for 3 classes in every task, got \[2, 3\]"):
        model.posterior(class_tasks(ways=(3, 2), shots=(1, 1), queries=(2, 2)))


@pytest.mark.gpu
@pytest.mark.parametrize("name", MEMBERS)
def test_the_gpu_agrees_with_the_cpu(name):
    model, batch = MEMBERS[name].build(), MEMBERS[name].tasks()
    expected = outcome(model, batch)
    got = outcome(model.to("cuda"), batch.to("cuda"))
    for a, b in zip(got.path, expected.path, strict=True):
        torch.testing.assert_close(a.loc.cpu(), b.loc, atol=1e-8, rtol=1e-8)
        torch.testing.assert_close(a.precision.cpu(), b.precision, atol=1e-8, rtol=1e-8)
    for key, value in expected.prediction.items():
        torch.testing.assert_close(got.prediction[key].cpu(), value, atol=1e-8, rtol=1e-8)
