"""Mutated checkpoints: a run that goes on from one ends as the uninterrupted run did, bit for bit, or refuses it."""

import random

import numpy as np
import pytest
import torch
from mutations import damaged, retensored
from scale import share

import ebmeta

CHECKPOINTS = 240
ITERATIONS = 4


def tasks(kind, seed=0):
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(6), 8)
    X = (2 * rng.standard_normal((6, 3))[y] + rng.standard_normal((48, 3))).astype(np.float32)
    if kind == "classes":
        return ebmeta.EpisodeSampler(X, y, 3, n_query=3)
    return ebmeta.GroupSampler(X, X.sum(1), y)


def model(kind):
    if kind == "classes":
        return ebmeta.EmpiricalBayes.classifier(3, 1, width=4)
    return ebmeta.EmpiricalBayes.regressor(3, num_steps=1, width=4)


def train(kind, path, source=None):
    out = model(kind)
    held_out = tasks(kind, 9) if kind == "classes" else None
    options = {"validation": held_out, "validate_every": 2, "validation_tasks": 2, "checkpoint_every": 1}
    ebmeta.fit(out, source or tasks(kind), ITERATIONS, 2, checkpoint=path, device="cpu", progress=False, **options)
    return out.state_dict()


class Stops(Exception):
    pass


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return checkpoints after three of four iterations, and what the whole run ends with."""
    out = {}
    for kind in ("classes", "groups"):
        path = tmp_path_factory.mktemp("run") / "checkpoint"
        whole = train(kind, path)
        path.unlink()
        source = tasks(kind)

        class Stopping(type(source)):  # a class, so that copies of the source stop too
            def sample(self, num_tasks, index=0, path=path):
                if index == ITERATIONS - 1 and path.exists():
                    raise Stops
                return super().sample(num_tasks, index)

        source.__class__ = Stopping
        with pytest.raises(Stops):
            train(kind, path, source)
        out[kind] = path.read_bytes(), whole
    return out


def mutate(content, other, rng):
    """Leave a checkpoint as it is, or change it in one way."""
    how = rng.choice(["none", "damaged", "damaged", "damaged", "retensored"])
    return {"none": lambda: content, "damaged": lambda: damaged(content, other, rng)}.get(
        how, lambda: retensored(content, rng)
    )()


def test_a_mutated_checkpoint_goes_on_bit_for_bit_or_is_refused(runs, tmp_path):
    went_on, refused, odd = 0, 0, []
    path = tmp_path / "checkpoint"
    for case in share(range(CHECKPOINTS), seed=2):
        rng = random.Random(case)
        kind, twin = rng.sample(["classes", "groups"], 2)
        content, whole = runs[kind]
        changed = mutate(content, runs[twin][0], rng)
        path.write_bytes(changed)
        try:
            ended = train(kind, path)
        except (ValueError, OSError) as error:
            fine = str(error).startswith(f"{path}: ") and "\n" not in str(error) and changed != content
            odd += [] if fine and path.read_bytes() == changed else [(case, str(error))]
            refused += 1
            continue
        for name, value in whole.items():
            assert torch.equal(ended[name], value), (case, name)
        went_on += 1
    assert not odd
    assert refused > went_on > 0
    print(f"{went_on + refused} mutated checkpoints: {went_on} went on bit for bit, {refused} refused")
