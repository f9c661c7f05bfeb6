"""N processes train what one does: parameters, history, validation; a killed run is continued by another number."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import traceback
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ebmeta
from ebmeta.training.world import World, check_world, own_device

PROCESSES = multiprocessing.get_context("forkserver")  # its server imports torch once for all of them
PROCESSES.set_forkserver_preload(["tests.training.test_world", "pyro", "torch._dynamo", "ebmeta.training.loop"])
PORTS = iter(range(29611 + os.getpid() % 20000, 65000, 7))


def sources(kind: str) -> tuple[ebmeta.EmpiricalBayes, Any, Any]:
    """Return a model, and tasks of training and validation."""
    rng = np.random.default_rng(0)
    if kind == "classes":
        y = np.repeat(np.arange(16), 12)
        x = 1.5 * rng.normal(size=(16, 5))[y] + rng.normal(size=(len(y), 5))
        seen = y < 10
        tasks = ebmeta.EpisodeSampler(x[seen], y[seen], n_way=(2, 4), n_shot=(1, 3), n_query=5, seed=0)
        validation = ebmeta.EpisodeSampler(x[~seen], y[~seen], n_way=3, n_shot=1, n_query=5, seed=1)
        return ebmeta.EmpiricalBayes.classifier(num_features=5, num_steps=2, width=8), tasks, validation
    group = np.repeat(np.arange(40), rng.integers(3, 30, 40))
    x = rng.normal(size=(len(group), 2))
    y = 0.4 * rng.normal(size=40)[group] + 0.3 * x[:, 0] + rng.normal(size=len(x))
    seen = group < 30
    tasks = ebmeta.GroupSampler(x[seen], y[seen], group[seen], n_support=(0, 2), seed=0)
    validation = ebmeta.GroupSampler(x[~seen], y[~seen], group[~seen], n_support=2, seed=1)
    return ebmeta.EmpiricalBayes.regressor(num_features=2, likelihood="normal", num_steps=1), tasks, validation


def train(kind: str, iterations: int, output: str, place: dict[str, str], options: dict[str, Any]) -> None:
    """Train in one of several processes, and write what comes out: arrays, or what went wrong."""
    os.environ.update(place)
    torch.set_num_threads(1)
    model, tasks, validation = sources(kind)
    die_at, bits, inner = options.pop("die_at", None), options.pop("bits", 32), tasks.sample

    def sample(num_tasks: int, index: int = 0) -> ebmeta.TaskBatch:
        if index == die_at and place["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(num_tasks, index)

    tasks.sample = sample
    model = model.double() if bits == 64 else model
    fixed = {"validate_every": 20, "validation_tasks": 32, "device": "cpu", "progress": False}
    try:
        run = ebmeta.fit(
            model, tasks, iterations, 6, validation=validation, **{"distributed": "auto"} | fixed | options
        )
    except ChildProcessError:
        Path(f"{output}-{place['RANK']}.txt").write_text(traceback.format_exc())
        raise SystemExit(1) from None
    state = {name: value.double().numpy() for name, value in model.state_dict().items()}
    history = {f"history {name}": value.values for name, value in run.history.items()}
    np.savez(f"{output}-{place['RANK']}.npz", **state, **history)


class Stop:
    """Ends a process after an iteration."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def __call__(self, iteration: int, values: Any) -> None:
        if iteration == self.iteration:
            raise SystemExit(1)


def started(folder: Path, name: str, size: int, kind: str, iterations: int, **options: Any) -> list[BaseProcess]:
    """Start the processes of a run, with the variables that `torchrun` sets."""
    port, processes = next(PORTS), []
    for rank in range(size):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        given = kind, iterations, str(folder / name), {k: str(v) for k, v in place.items()}, options
        processes.append(PROCESSES.Process(target=train, args=given))
        processes[-1].start()
    return processes


def ended(processes: list[BaseProcess]) -> list[int | None]:
    """Wait for the processes and return their codes."""
    for process in processes:
        process.join(timeout=200)
    return [process.exitcode for process in processes]


def result(folder: Path, name: str, rank: int = 0) -> dict[str, np.ndarray]:
    return dict(np.load(folder / f"{name}-{rank}.npz"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a run that nothing ends comes to."""
    folder = tmp_path_factory.mktemp("whole")
    assert ended(started(folder, "whole", 1, "numbers", 25)) == [0]
    return result(folder, "whole")


def same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray], near: float = 0.0) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, atol=near, rtol=near, err_msg=name)


@pytest.mark.parametrize(("kind", "iterations"), [("classes", 4), ("numbers", 25)])
def test_any_number_of_processes_trains_what_one_does_to_the_bit(tmp_path, kind, iterations):
    others = {"classes": (3,), "numbers": (2, 4)}[kind]
    runs = {size: started(tmp_path, f"of-{size}", size, kind, iterations) for size in (1, *others)}
    assert {size: ended(run) for size, run in runs.items()} == {size: [0] * size for size in (1, *others)}
    wanted = result(tmp_path, "of-1")
    assert len(wanted["history validation_loss"]) == -(-iterations // 20)
    assert abs(wanted["history nll"][-1] - wanted["history nll"][0]).max() > 0.01
    for size in others:
        for rank in (0, size - 1):
            same(result(tmp_path, f"of-{size}", rank), wanted)


@pytest.mark.parametrize(("kind", "iterations"), [("classes", 16), ("numbers", 40)])
def test_shares_are_the_whole_batch_up_to_rounding(tmp_path, kind, iterations):
    """In 64 bits; in 32 bits, parameters that hardly matter drift apart."""
    runs = [started(tmp_path, str(how), 1, kind, iterations, bits=64, distributed=how) for how in ("auto", None)]
    assert [ended(run) for run in runs] == [[0], [0]]
    same(result(tmp_path, "auto"), result(tmp_path, "None"), near=1e-8)


@pytest.mark.parametrize(("first", "then"), [(2, 1), (2, 3), (1, 2)])
def test_a_killed_run_says_so_and_is_continued_by_another_number_of_processes(tmp_path, whole, first, then):
    options = {"checkpoint": str(tmp_path / "run.safetensors"), "checkpoint_every": 10}
    begun = {"die_at": 17} if first > 1 else {"callbacks": [Stop(17)]}
    killed = ended(started(tmp_path, "killed", first, "numbers", 25, **options, **begun))
    if first > 1:
        assert killed == [1, -signal.SIGKILL]
        assert re.search(
            r"ChildProcessError: distributed: expected 2 processes to the end, got word of one that ended \(process 0 "
            r"says: .*\); run again to continue from the checkpoint",
            (tmp_path / "killed-0.txt").read_text(),
        )
    again = started(tmp_path, "again", then, "numbers", 25, **options)
    assert ended(again) == [0] * then
    same(result(tmp_path, "again"), whole)


def test_a_run_in_shares_goes_on_in_shares_alone(tmp_path, whole):
    options = {"checkpoint": str(tmp_path / "run.safetensors"), "checkpoint_every": 10}
    assert ended(started(tmp_path, "killed", 1, "numbers", 25, callbacks=[Stop(17)], **options)) == [1]
    assert ended(started(tmp_path, "again", 1, "numbers", 25, distributed=None, **options)) == [0]
    same(result(tmp_path, "again"), whole)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_every_share_is_that_of_one_process(size):
    for count in (1, 4, 8):
        assert sorted(s for rank in range(size) for s in World(rank, size).mine(count)) == list(range(count))
    model = ebmeta.EmpiricalBayes.regressor(num_features=2)
    assert World(size=size).shares(model, 16) == (4 if size < 5 else 8)
    assert World(size=size).shares(model, 3) == 3
    assert World(size=size, in_shares=False).shares(model, 16) == 1


def test_one_process_is_left_as_it_is():
    world = World()
    assert world.sum(3, lambda share: torch.tensor(2.0**share)).item() == 7
    assert world.of_first("a") == "a"
    assert world.all_of([1, 2]) == [1, 2]


def test_what_several_processes_cannot_train_is_refused(monkeypatch):
    model = ebmeta.EmpiricalBayes.regressor(num_features=2)
    check_world(model, 2, World(0, 2))
    with pytest.raises(ValueError, match="^batch_size: expected at least a task for each of 3 processes, got 2$"):
        check_world(model, 2, World(0, 3))
    for layer in (nn.BatchNorm1d(2), nn.Dropout()):
        own = ebmeta.EmpiricalBayes.regressor(num_features=2, embedder=nn.Sequential(nn.Linear(2, 2), layer))
        check_world(own, 2, World())
        assert World().shares(own, 16) == 1
        with pytest.raises(ValueError, match=f"for 2 processes, got {type(layer).__name__}: freeze the embedder"):
            check_world(own, 2, World(0, 2))
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert own_device(torch.device("cuda"), "auto") == torch.device("cuda", 3)
    assert own_device(torch.device("cuda"), None) == torch.device("cuda")
    assert own_device(torch.device("cpu"), "auto") == torch.device("cpu")
