"""How far classes are from the floor: predictions and training beside four bare EM steps, and beside peers.

A bare step is two matrix products and a softmax on features as they are: no method that uses the queries does with
less. Each figure is the median of several runs in processor time of one thread, per task of five classes, one labelled
row each, and 75 queries. With a git revision, the package as it was there is measured too. With a clone of
`sib_meta_learn`, which is no part of this project, so is SIB as its authors released it, one task at a time.
Training is measured with a compiled refiner too, the second time that it is compiled: the first one takes longer.
`OMP_NUM_THREADS=1 python benchmarks/floor.py [REVISION] [--released FOLDER]`
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

NAME = "floor.json"
WIDTHS = (64, 256, 640)  # features
TASKS, STEPS, RUNS, BATCH = 256, 4, 7, 16
TRAINED, WARM = 60, 10  # iterations
COMPILED = "--compiled"


def sampler(width: int) -> Any:
    """Return tasks of five classes, one labelled row each."""
    import ebmeta

    rng, y = np.random.default_rng(0), np.repeat(np.arange(40), 40)
    x = rng.normal(size=(40, width))[y] + rng.normal(size=(len(y), width))
    return ebmeta.EpisodeSampler(x.astype(np.float32), y, n_way=5, n_shot=1, n_query=15, seed=0)


def milliseconds(runs: dict[str, tuple[Callable[[], object], int]]) -> dict[str, float]:
    """Return the median processor time of a task of each run of so many tasks; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(RUNS + 2):  # two to warm up
        for name, (run, tasks) in runs.items():
            begin = time.process_time()
            run()
            times[name].append(1e3 * (time.process_time() - begin) / tasks)
    return {name: statistics.median(values[2:]) for name, values in times.items()}


@torch.no_grad()
def bare(support: torch.Tensor, labels: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """Return the beliefs after four EM steps of a mixture with equal spreads."""
    told, number = labels.mT @ support, labels.sum(1).unsqueeze(-1)
    mean = told / number
    for _ in range(STEPS):
        r = torch.softmax(10 * (query @ mean.mT) - 5 * mean.square().sum(-1).unsqueeze(1), -1)
        mean = (told + r.mT @ query) / (number + r.sum(1).unsqueeze(-1))
    return r


def inputs(batch: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what the bare steps take of tasks of five classes."""
    support, query = (torch.nn.functional.normalize(x, dim=-1) for x in (batch.support_x, batch.query_x))
    return support, torch.nn.functional.one_hot(batch.support_y, 5).float(), query


def training(width: int, compiled: bool = False) -> dict[str, float]:
    """Return milliseconds of a task in an iteration of training, and of one in bare steps before each iteration.

    An iteration begins when tasks are drawn. The longest has compiled what it needs; it is in seconds.
    """
    import ebmeta

    draw, given = ebmeta.EpisodeSampler.sample, inputs(sampler(width).sample(TASKS))
    times: dict[str, list[float]] = {"ended": [], "bare": [], "begun": [], "clock": []}

    @functools.wraps(draw)
    def noted(*arguments: Any, **named: Any) -> Any:
        times["ended"].append(time.process_time())
        bare(*given)
        times["begun"].append(time.process_time())
        times["clock"].append(time.perf_counter())
        return draw(*arguments, **named)

    model, tasks = ebmeta.EmpiricalBayes.classifier(width, num_steps=STEPS), sampler(width)
    if compiled:
        model.refiner.compile()
    with mock.patch.object(ebmeta.EpisodeSampler, "sample", noted):
        ebmeta.fit(model, tasks, WARM + TRAINED, BATCH, seed=0, device="cpu", progress=False)
    ended, begun, some = np.array(times["ended"]), np.array(times["begun"]), slice(WARM, WARM + TRAINED)
    return {
        "training": 1e3 * float(np.median((ended[1:] - begun[:-1])[some])) / BATCH,
        "beside": 1e3 * float(np.median((begun - ended)[some])) / TASKS,
        "longest": float(np.diff(times["clock"])[: some.stop].max()),
    }


def peers(batch: Any) -> dict[str, tuple[Callable[[], object], int]]:
    """Return runs of other methods on features as they are, SIB's network untrained: it costs the same."""
    from lib.peers.ptmap import PTMAP
    from lib.peers.sib import SIB
    from lib.peers.tim import TIM

    given = batch.support_x, batch.support_y, batch.query_x, 5
    sib, tim, pt_map = SIB(n_way=5, features=batch.query_x.shape[-1]), TIM(), PTMAP(power=1.0)

    @torch.no_grad()
    def adapt() -> object:
        return sib.network(*given)

    def steps() -> None:  # as published: one task at a time
        for _ in range(BATCH):
            scores = sib.network(*(v[:1] for v in given[:3]), 5)
            loss = torch.nn.functional.cross_entropy(scores[0], batch.query_y[0])
            sib.optimizer.zero_grad()
            loss.backward()
            sib.optimizer.step()

    return {
        "tim": (lambda: tim(*given), len(batch)),
        "pt_map": (lambda: pt_map(*given), len(batch)),
        "sib": (adapt, len(batch)),
        "sib_training": (steps, BATCH),
    }


def released(folder: Path, batch: Any) -> dict[str, tuple[Callable[[], object], int]]:
    """Return runs of the released code of SIB, untrained, with the batch size and the optimizer of its settings."""
    from lib.released import module_in

    with module_in(folder, "sib") as script:
        network = script.ClassifierSIB(5, batch.query_x.shape[-1], 3)
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9, weight_decay=5e-4, nesterov=True)
    rows = [[x[t : t + 1] for x in (batch.support_x, batch.support_y, batch.query_x)] for t in range(BATCH)]

    def adapt() -> None:
        for row in rows:
            network(*row, 1e-3)

    def steps() -> None:
        for row, y in zip(rows, batch.query_y, strict=False):
            loss = torch.nn.functional.cross_entropy(network(*row, 1e-3)[0], y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return {"sib_released": (adapt, BATCH), "sib_released_training": (steps, BATCH)}


def here(folder: str | None = None) -> None:
    """Print the times of the package that is imported, and of what needs none."""
    import ebmeta

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    out = {}
    for width in WIDTHS:
        batch, model = sampler(width).sample(TASKS), ebmeta.EmpiricalBayes.classifier(width, num_steps=STEPS)
        runs = {
            "bare": (functools.partial(bare, *inputs(batch)), TASKS),
            "predict": (lambda m=model, b=batch: ebmeta.predict(m, b, num_draws=0), TASKS),
            **peers(batch),
            **({} if folder is None else released(Path(folder), batch)),
        }
        found = training(width)
        out[width] = milliseconds(runs) | {name: found[name] for name in ("training", "beside")}
    print(json.dumps(out))


def compiled(width: str) -> None:
    """Print the time of a task in training with a compiled refiner, and the seconds of compilation."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(json.dumps(training(int(width), compiled=True)))


def to_bare(times: dict[str, float]) -> dict[str, float]:
    """Return times in bare tasks: those that took turns with them, and training in those beside it."""
    unit = {name: times["beside" if name == "training" else "bare"] for name in times.keys() - {"beside", "longest"}}
    return {name: round(times[name] / unit[name], 2) for name in times if name in unit}


def main() -> None:
    """Measure, and write times and their ratios to the bare steps."""
    from lib.common import write
    from lib.revisions import CLONE, checkout, printed

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revision", nargs="?")
    parser.add_argument("--released", type=Path)
    given = parser.parse_args()
    found = {"now": printed(__file__, CLONE, *([] if given.released is None else [str(given.released.resolve())]))}
    pieces = {}
    for width in WIDTHS:
        with tempfile.TemporaryDirectory() as cache, mock.patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=cache):
            first, again = (printed(__file__, CLONE, COMPILED, str(width)) for _ in range(2))
        seconds = {"first": round(first["longest"], 1), "again": round(again["longest"], 1)}
        pieces[width] = {"milliseconds": round(again["training"], 4), **to_bare(again), **seconds}
    if given.revision is not None:
        with checkout(given.revision) as package:
            found["before"] = printed(__file__, package)
    ratio = {name: {width: to_bare(each) for width, each in widths.items()} for name, widths in found.items()}
    rounded = {
        name: {width: {k: round(v, 4) for k, v in each.items()} for width, each in widths.items()}
        for name, widths in found.items()
    }
    write(NAME, {"before_is": given.revision, "milliseconds": rounded, "to_bare": ratio, "compiled": pieces})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--here"]:
        compiled(sys.argv[3]) if sys.argv[2:3] == [COMPILED] else here(*sys.argv[2:])
    else:
        main()
