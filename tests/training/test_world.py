"""N processes train what one does: parameters, history, validation; a killed run is continued by another number."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ebmeta
from ebmeta.training.world import World, check_world, own_device

RUN = """
import json, os, signal, sys
import numpy as np, torch
import ebmeta

kind, iterations, options = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
rng = np.random.default_rng(0)
if kind == "classes":
    y = np.repeat(np.arange(16), 12)
    X = 1.5 * rng.normal(size=(16, 5))[y] + rng.normal(size=(len(y), 5))
    tasks = ebmeta.EpisodeSampler(X[y < 10], y[y < 10], n_way=(2, 4), n_shot=(1, 3), n_query=5, seed=0)
    validation = ebmeta.EpisodeSampler(X[y >= 10], y[y >= 10], n_way=3, n_shot=1, n_query=5, seed=1)
    model = ebmeta.EmpiricalBayes.classifier(num_features=5, num_steps=2, width=8)
else:
    group = np.repeat(np.arange(40), rng.integers(3, 30, 40))
    x = rng.normal(size=(len(group), 2))
    y = rng.poisson(np.exp(0.4 * rng.normal(size=40)[group] + 0.3 * x[:, 0]))
    tasks = ebmeta.GroupSampler(x[group < 30], y[group < 30], group[group < 30], n_support=(0, 2), seed=0)
    validation = ebmeta.GroupSampler(x[group >= 30], y[group >= 30], group[group >= 30], n_support=2, seed=1)
    model = ebmeta.EmpiricalBayes.regressor(num_features=2, likelihood="poisson", num_steps=1)
if "die_at" in options:
    die_at, inner = options.pop("die_at"), tasks.sample
    def sample(num_tasks, index=0):
        if index == die_at and os.environ.get("RANK") == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(num_tasks, index)
    tasks.sample = sample
output, bits = options.pop("output"), options.pop("bits", 32)
model.double() if bits == 64 else model.float()
run = ebmeta.fit(
    model, tasks, iterations, 6, validation=validation, validate_every=50, validation_tasks=64, device="cpu",
    distributed="auto", progress=False, **options
)
state = {name: value.double().numpy() for name, value in model.state_dict().items()}
history = {str(name): value.values for name, value in run.history.items()}
np.savez(f"{output}-{os.environ.get('RANK', '0')}.npz", **state, **{f"history {k}": v for k, v in history.items()})
"""
PORTS = iter(range(29611 + os.getpid() % 20000, 65000, 7))


def started(folder: Path, size: int, kind: str, iterations: int, **options: Any) -> list[subprocess.Popen[str]]:
    """Start the processes of a run, as `torchrun` does."""
    port, code = next(PORTS), folder / "run.py"
    code.write_text(RUN)
    processes = []
    for rank in range(size):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        env = os.environ | ({name: str(value) for name, value in place.items()} if size > 1 else {})
        call = [sys.executable, "-W", "ignore", str(code), kind, str(iterations), json.dumps(options)]
        processes.append(subprocess.Popen(call, env=env, stderr=subprocess.PIPE, text=True))
    return processes


def ended(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Wait for the processes and return their codes and what they said."""
    said = [process.communicate(timeout=200)[1] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def result(folder: Path, name: str, rank: int = 0) -> dict[str, np.ndarray]:
    return dict(np.load(folder / f"{name}-{rank}.npz"))


@pytest.mark.parametrize(("kind", "iterations"), [("classes", 30), ("counts", 200)])
def test_two_processes_train_what_one_does(tmp_path, kind, iterations):
    """In 64 bits, where the order of sums hardly shows; in 32 bits parameters differ by about 1e-5 after 200 steps."""
    bits, near = 64, 1e-8
    one = started(tmp_path, 1, kind, iterations, bits=bits, output=str(tmp_path / "one"))
    assert [code for code, _ in ended(one)] == [0]
    two = started(tmp_path, 2, kind, iterations, bits=bits, output=str(tmp_path / "two"))
    found = ended(two)
    assert [code for code, _ in found] == [0, 0], found
    wanted, first, second = result(tmp_path, "one"), result(tmp_path, "two"), result(tmp_path, "two", 1)
    for name, value in wanted.items():
        np.testing.assert_array_equal(second[name], first[name], err_msg=name)
        np.testing.assert_allclose(first[name], value, atol=near, rtol=near, err_msg=name)
    assert len(wanted["history validation_loss"]) == -(-iterations // 50)
    assert abs(wanted["history nll"][-1] - wanted["history nll"][0]).max() > 0.01


def test_a_killed_run_says_so_and_is_continued_by_another_number_of_processes(tmp_path):
    options = {"checkpoint": str(tmp_path / "run.safetensors"), "checkpoint_every": 10}
    whole = started(tmp_path, 1, "counts", 40, bits=64, output=str(tmp_path / "whole"))
    killed = started(tmp_path, 2, "counts", 40, bits=64, output=str(tmp_path / "killed"), die_at=27, **options)
    (first, said), (second, _) = ended(killed)
    assert (first, second) == (1, -signal.SIGKILL)
    assert re.search(
        r"ChildProcessError: distributed: expected 2 processes to the end, got word of one that ended \(process 0 "
        r"says: .*\); run again to continue from the checkpoint",
        said,
    )
    again = started(tmp_path, 1, "counts", 40, bits=64, output=str(tmp_path / "again"), **options)
    assert [code for code, _ in ended(again) + ended(whole)] == [0, 0]
    wanted, found = result(tmp_path, "whole"), result(tmp_path, "again")
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, atol=1e-8, rtol=1e-8, err_msg=name)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_every_task_is_that_of_one_process(size):
    lengths, first, seen = [3, 1, 1, 8, 2], 0, []
    for length in lengths:
        seen += [first + int(t) for rank in range(size) for t in World(rank, size).share(first, length)]
        first += length
    assert sorted(seen) == list(range(15))
    each = [len(World(rank, size).share(0, 15)) for rank in range(size)]
    assert max(each) - min(each) <= 1


def test_one_process_is_left_as_it_is():
    world = World()
    value, parameter = torch.tensor(2.0), nn.Parameter(torch.ones(2))
    assert world.total(value) is value
    assert world.of_first("a") == "a"
    assert world.all_of([1, 2]) == [1, 2]
    world.add_gradients([parameter])
    assert parameter.grad is None


def test_what_several_processes_cannot_train_is_refused(monkeypatch):
    model = ebmeta.EmpiricalBayes.regressor(num_features=2)
    check_world(model, 2, World(0, 2))
    with pytest.raises(ValueError, match="^batch_size: expected at least a task for each of 3 processes, got 2$"):
        check_world(model, 2, World(0, 3))
    for layer in (nn.BatchNorm1d(2), nn.Dropout()):
        own = ebmeta.EmpiricalBayes.regressor(num_features=2, embedder=nn.Sequential(nn.Linear(2, 2), layer))
        check_world(own, 2, World())
        with pytest.raises(ValueError, match=f"for 2 processes, got {type(layer).__name__}: freeze the embedder"):
            check_world(own, 2, World(0, 2))
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert own_device(torch.device("cuda"), "auto") == torch.device("cuda", 3)
    assert own_device(torch.device("cuda"), None) == torch.device("cuda")
    assert own_device(torch.device("cpu"), "auto") == torch.device("cpu")
