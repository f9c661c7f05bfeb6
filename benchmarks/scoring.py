"""A million groups with the memory of a few thousand, and the same numbers from every engine.

`million` scores groups of six rows, three of them labelled, in frames of 2,000 groups, into parquet files. It reports
the resident memory after 10^4, 10^5 and 10^6 groups, and kills and continues a run. `engines` scores 8,000 groups by
one process, by joblib, Dask and Ray of two processes, and compares all numbers. `python benchmarks/scoring.py`
(about 15 minutes); with names of cases, and `--groups N`, it does these anew. Without Ray, its row is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import ebmeta
from ebmeta.scoring.engines import sharing
from lib.common import read, write

GROUPS, ROWS, LABELLED, STEPS = 2000, 6, 3, 1
SHARED = 8_000  # groups of `engines`
WORKERS = 2


def frame(number: int, groups: int = GROUPS) -> pd.DataFrame:
    """Return the rows of some groups, labels of the last rows of each left out; a function of the number alone."""
    rng = np.random.default_rng([7, number])
    level, x = np.repeat(rng.normal(size=groups), ROWS), rng.normal(size=groups * ROWS)
    y = 1 + level + 0.5 * x + 0.3 * rng.normal(size=len(x))
    y[np.arange(len(x)) % ROWS >= LABELLED] = np.nan
    names = [f"g{n}" for n in range(number * groups, (number + 1) * groups)]
    return pd.DataFrame({"g": np.repeat(names, ROWS), "x": x, "y": y, "n": ROWS})


def trained(folder: Path) -> Path:
    """Save a briefly trained model and return its folder."""
    rows = frame(10**6, 500).assign(y=lambda f: np.nan_to_num(f["y"], nan=1.0)).groupby("g").head(LABELLED)
    tasks = ebmeta.GroupSampler.from_frame(rows, y="y", groups="g", features=["x"], n_support=(1, 2))
    model = ebmeta.EmpiricalBayes.regressor(num_features=1, num_steps=STEPS)
    ebmeta.fit(model, tasks, 200, device="cpu", progress=False)
    return ebmeta.save(model, folder / "model", tasks.encoder)


def resident() -> float:
    """Return the resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def million(groups: int) -> dict[str, Any]:
    """Score very many groups into files."""
    memory: dict[str, float] = {}

    def frames() -> Iterator[pd.DataFrame]:
        for number in range(groups // GROUPS):
            done = number * GROUPS
            if done in (10**4, 10**5) or done + GROUPS == groups:
                memory[str(groups if done + GROUPS == groups else done)] = round(resident(), 1)
            yield frame(number)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = trained(folder)
        done = ebmeta.score_parts(model, frames(), folder / "parts", group_rows="n", total=groups // GROUPS)
        asked = groups * (ROWS - LABELLED)
        files = sorted((folder / "parts").iterdir())
        written = sum(len(pd.read_parquet(path, columns=["g"])) for path in files)
        again = ebmeta.score_parts(model, frames(), folder / "parts", group_rows="n", progress=False)
        resumed = killed(model, folder)
        size = sum(path.stat().st_size for path in files)
    values = list(memory.values())
    return {
        "groups": groups,
        "rows_in": groups * ROWS,
        "rows_lost": asked - written,
        "rows_per_second": round(done.rows_per_second),
        "groups_per_second": round(groups / done.seconds),
        "seconds": round(done.seconds, 1),
        "resident_mb": memory,
        "growth": round(max(values) / values[0] - 1, 4),
        "parts": done.parts,
        "kept_when_repeated": again.kept,
        "seconds_when_repeated": round(again.seconds, 1),
        "killed_after": resumed["killed_after"],
        "same_after_kill": resumed["same"],
        "gb_written": round(size / 1e9, 3),
    }


def killed(model: Path, folder: Path) -> dict[str, Any]:
    """Kill a process that scores some frames, continue it, and compare the files with those of the whole run."""
    call = [sys.executable, __file__, "--killed", str(model), str(folder / "again")]
    process = subprocess.Popen(call, stderr=subprocess.DEVNULL)
    while not (folder / "again" / "part-00003.parquet").exists():
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = len(list((folder / "again").glob("part-*.parquet")))
    ebmeta.score_parts(model, map(frame, range(10)), folder / "again", group_rows="n", progress=False)
    same = all(
        pd.read_parquet(folder / "again" / f"part-{n:05d}.parquet").equals(
            pd.read_parquet(folder / "parts" / f"part-{n:05d}.parquet")
        )
        for n in range(10)
    )
    return {"killed_after": there, "same": same}


def score(folder: Path, number: int) -> pd.DataFrame:
    """Score one frame, in whatever process."""
    found: pd.DataFrame = next(ebmeta.score_batches(folder, [frame(number)], group_rows="n"))
    return found


def engines(groups: int) -> dict[str, Any]:
    """Score the same groups by every engine."""
    numbers = range(groups // GROUPS)
    out: dict[str, Any] = {"groups": groups, "workers": WORKERS}
    with tempfile.TemporaryDirectory() as name:
        call = partial(score, trained(Path(name)))
        serial = pd.concat(map(call, numbers), ignore_index=True)
        ways: dict[str, Callable[[], pd.DataFrame]] = {
            "serial": lambda: pd.concat(map(call, numbers), ignore_index=True),
            "joblib": lambda: by("joblib", call, numbers),
            "dask": lambda: by("dask", call, numbers),
        }
        if importlib.util.find_spec("ray") is not None:
            ways["ray"] = lambda: by_ray(call, numbers)
        for way, run in ways.items():
            started = time.perf_counter()
            found = run()
            out[way] = {"seconds": round(time.perf_counter() - started, 1), "equal": same(found, serial)}
            print(way, out[way], flush=True)
    return out


def same(found: pd.DataFrame, wanted: pd.DataFrame) -> bool:
    """Return whether all names and all numbers are the same, to the bit."""
    numbers = [name for name in wanted if name != "g"]
    return found["g"].tolist() == wanted["g"].tolist() and np.array_equal(found[numbers], wanted[numbers])


def by(engine: Any, call: Callable[[int], pd.DataFrame], numbers: range) -> pd.DataFrame:
    """Return the predictions of all frames by joblib or Dask."""
    with sharing(engine, WORKERS) as mapped:
        return pd.concat(mapped(call, numbers), ignore_index=True)


def by_ray(call: Callable[[int], pd.DataFrame], numbers: range) -> pd.DataFrame:
    """Return the predictions of all frames by Ray Data, a frame a batch."""
    import ray  # type: ignore[import-not-found, unused-ignore]

    def batch(rows: pd.DataFrame) -> pd.DataFrame:
        return pd.concat([call(int(n)).assign(frame=n) for n in rows["number"]], ignore_index=True)

    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    try:
        data = ray.data.from_pandas(pd.DataFrame({"number": list(numbers)})).repartition(len(numbers))
        found = data.map_batches(batch, batch_format="pandas", batch_size=1).to_pandas()
    finally:
        ray.shutdown()
    return found.sort_values("frame", kind="stable").drop(columns="frame").reset_index(drop=True)


def main() -> None:
    """Run the cases that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", choices=["million", "engines", []])
    parser.add_argument("--groups", type=int, default=10**6)
    parser.add_argument("--killed", nargs=2)
    given = parser.parse_args()
    if given.killed:
        ebmeta.score_parts(given.killed[0], map(frame, range(10**4)), given.killed[1], group_rows="n", progress=False)
        return
    result = read("scoring.json")
    for case in given.cases or ("million", "engines"):
        result[case] = million(given.groups) if case == "million" else engines(SHARED)
        print(case, result[case], flush=True)
        write("scoring.json", result)


if __name__ == "__main__":
    main()
