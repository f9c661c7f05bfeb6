"""Killed processes: whoever was killed at whatever call, one whole model is there and the run goes on bit for bit.

A child counts its calls and kills itself (SIGKILL) at one of them, drawn from a fixed seed: no clock decides.
"""

import os
import random
import signal
import sys
import warnings

import numpy as np
import pytest
import torch
from builders import classifier
from scale import SCALE, share

import ebmeta
from ebmeta.app.tables import write_table
from tests.hostile.test_checkpoints import ITERATIONS, model, tasks

KILLS = 50
FILES = {"config.json", "model.safetensors"}


def fork():
    """Fork beside idle threads, of JAX for one, which another test may have started: none holds a lock here."""
    with warnings.catch_warnings():
        for kind in (DeprecationWarning, RuntimeWarning):
            warnings.simplefilter("ignore", kind)
        return os.fork()


def child(work, kill_at=None):
    """Fork, do the work, kill it at one of its calls; return the number of calls, or None where it was killed."""
    reader, writer = os.pipe()
    pid = fork()
    if pid == 0:
        calls = 0

        def count(frame, event, argument):
            nonlocal calls
            calls += 1
            if calls == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.setprofile(count)
            work()
            sys.setprofile(None)
            os.write(writer, str(calls).encode())
        finally:
            os._exit(1)
    os.close(writer)
    _, status = os.waitpid(pid, 0)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return None
    return int(text)


def train(folder):
    out = model("classes")
    options = {"validation": tasks("classes", 9), "validate_every": 2, "validation_tasks": 2, "checkpoint_every": 1}
    path = folder / "checkpoint"
    ebmeta.fit(out, tasks("classes"), ITERATIONS, 2, checkpoint=path, device="cpu", progress=False, **options)
    ebmeta.save(out, folder / "model")
    return out.state_dict()


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())


def test_training_that_was_killed_goes_on_bit_for_bit(tmp_path):
    old = ebmeta.EmpiricalBayes.classifier(3, 1, width=4, seed=7)
    whole = train(tmp_path / "whole")
    total = child(lambda: train(tmp_path / "counted"))
    killed = 0
    for case in share(range(KILLS // 2), seed=3):
        folder = tmp_path / str(case)
        ebmeta.save(old, folder / "model")
        killed += child(lambda folder=folder: train(folder), random.Random(case).randrange(1, total)) is None
        found = ebmeta.load(folder / "model").state_dict()
        assert equal(found, old.state_dict()) or equal(found, whole), case
        assert equal(train(folder), whole), case
        assert equal(ebmeta.load(folder / "model").state_dict(), whole), case
        assert {p.name for p in folder.iterdir()} == {"checkpoint", "model"}, case
        assert {p.name for p in (folder / "model").iterdir()} == FILES, case
    assert killed == len(share(range(KILLS // 2), seed=3))


def test_saving_that_was_killed_leaves_a_whole_model(tmp_path):
    models = [classifier(features=n) for n in (3, 4, 5)]

    def work(folder):
        for one in models:
            ebmeta.save(one, folder)

    def start(folder):
        ebmeta.save(models[-1], folder)
        return folder

    counted = start(tmp_path / "counted")
    total = child(lambda: work(counted))
    killed = 0
    for case in share(range(KILLS - KILLS // 2), seed=4):
        folder = start(tmp_path / str(case))
        killed += child(lambda folder=folder: work(folder), random.Random(case).randrange(1, total)) is None
        found = ebmeta.load(folder)
        assert equal(found.state_dict(), models[found.predictor.num_features - 3].state_dict()), case
        ebmeta.save(models[0], folder)
        assert {p.name for p in folder.iterdir()} == FILES, case
    assert killed == len(share(range(KILLS - KILLS // 2), seed=4))


def test_writing_that_was_killed_leaves_a_whole_file(tmp_path):
    columns = [{"prediction": np.repeat(name, 500), "p_a": np.ones(500)} for name in "abc"]
    for suffix in ("csv", "npz", "parquet"):
        folder = tmp_path / suffix
        folder.mkdir()
        path = folder / f"table.{suffix}"
        whole = []
        for one in columns:
            write_table(path, one)
            whole.append(path.read_bytes())

        def work(path=path):
            for one in columns:
                write_table(path, one)

        total = child(work)
        for case in share(range(KILLS), seed=6):
            assert child(work, random.Random(case).randrange(1, total)) is None
            assert path.read_bytes() in whole, case
            write_table(path, columns[0])
            assert [p.name for p in folder.iterdir()] == [path.name], case


@pytest.mark.parametrize("writers", [1, 3])
def test_processes_that_load_while_others_save_find_a_whole_model(tmp_path, writers):
    models = [classifier(features=n) for n in (3, 4, 5)]
    ebmeta.save(models[0], tmp_path)
    saves = round(300 * SCALE) // writers
    pids = []
    for number in range(writers):
        pids.append(fork())
        if pids[-1] == 0:
            try:
                for i in range(saves):
                    ebmeta.save(models[(i + number) % 3], tmp_path)
                os._exit(0)
            finally:
                os._exit(1)
    running, loads = set(pids), 0
    while running:
        found = ebmeta.load(tmp_path)
        assert equal(found.state_dict(), models[found.predictor.num_features - 3].state_dict())
        loads += 1
        for pid in list(running):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                assert status == 0
                running.remove(pid)
    print(f"{loads} loads during {saves * writers} saves")
    assert {p.name for p in tmp_path.iterdir()} == FILES
