"""Command lines with hostile files and flags: done rightly, or refused in one line with exit code 2.

Nothing hangs, no file that was read is changed, and no temporary file stays behind.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scale
from judge import LONGEST, TooLongError, limited

import ebmeta
from ebmeta.app.cli import main

pytestmark = pytest.mark.filterwarnings("ignore")
SECONDS = 60
FEATURES = ("a", "b")


def classes() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    y = np.repeat(["ant", "bee", "cat", "dog", "elk", "fox"], 20)
    center = rng.normal(size=(6, 2)).repeat(20, 0)
    x = (3 * center + rng.normal(size=(120, 2))).round(4)
    return pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "y": y})


def groups() -> pd.DataFrame:
    frame = classes()
    codes = np.repeat(np.arange(12), 10)
    return frame.assign(y=(frame["a"] + codes).round(3), g=[f"group {c}" for c in codes])


def table(name: str, frame: pd.DataFrame) -> dict[str, Callable[[Path], None]]:
    """Return makers of hostile files of one frame, by their names (the ending is part of it)."""
    text = frame.to_csv(index=False)
    head, *rows = text.splitlines()
    broken: dict[str, Any] = {
        "empty.csv": b"",
        "head_alone.csv": head.encode() + b"\n",
        "one_row.csv": "\n".join([head, rows[0]]).encode(),
        "one_class.csv": frame.assign(y=frame["y"].iloc[0]).to_csv(index=False).encode(),
        "binary.csv": bytes(range(256)) * 8,
        "zeros.csv": b"\0" * 1000,
        "utf16.csv": text.encode("utf-16"),
        "bom.csv": b"\xef\xbb\xbf" + text.encode(),
        "latin.csv": text.replace("ant", "\xe4nt").encode("latin-1"),
        "semicolons.csv": text.replace(",", ";").encode(),
        "tabs.csv": text.replace(",", "\t").encode(),
        "crlf.csv": text.replace("\n", "\r\n").encode(),
        "trailing.csv": "\n".join([head, *(row + "," for row in rows)]).encode(),
        "ragged.csv": "\n".join([head, *(row + ",9" * (i % 3) for i, row in enumerate(rows))]).encode(),
        "quotes.csv": text.replace(rows[0], '"' + rows[0]).encode(),
        "gzip.csv": gzip.compress(text.encode()),
        "twice.csv": text.replace(head, head.replace("b", "a")).encode(),
        "no_label.csv": frame.drop(columns="y").to_csv(index=False).encode(),
        "label_alone.csv": frame[["y"]].to_csv(index=False).encode(),
        "index.csv": frame.to_csv().encode(),
        "gap.csv": text.replace(rows[3], "," + rows[3].split(",", 1)[1]).encode(),
        "nan.csv": text.replace(rows[3], "nan," + rows[3].split(",", 1)[1]).encode(),
        "infinite.csv": text.replace(rows[3], "inf," + rows[3].split(",", 1)[1]).encode(),
        "huge.csv": text.replace(rows[3], "1e308," + rows[3].split(",", 1)[1]).encode(),
        "word.csv": text.replace(rows[3], "n/k," + rows[3].split(",", 1)[1]).encode(),
        "decimal_commas.csv": frame.to_csv(index=False, sep=";", decimal=",").encode(),
        "constant.csv": frame.assign(a=1.0, b=1.0).to_csv(index=False).encode(),
        "long_name.csv": text.replace("a,", "x" * 5000 + ",", 1).encode(),
        "odd_name.csv": text.replace("a,", '"a\nnew, line",', 1).encode(),
        "unicode.csv": text.replace("a,", "größe🙂,", 1).replace("ant", "蟻").encode(),
        "parquet.csv": frame.to_parquet(),
        "cut.parquet": frame.to_parquet()[:500],
        "text.parquet": text.encode(),
        "empty.parquet": b"",
        "right.parquet": frame.to_parquet(),
        "right.csv": text.encode(),
        "none.txt": text.encode(),
        "empty.npz": b"",
        "text.npz": text.encode(),
    }
    out: dict[str, Callable[[Path], None]] = {
        f"{name}_{ending}": lambda path, content=content: path.write_bytes(content)
        for ending, content in broken.items()
    }
    X, y = frame[list(FEATURES)].to_numpy(), frame["y"].to_numpy()
    arrays: dict[str, dict[str, Any]] = {
        "right.npz": {"X": X, "y": y.astype(str) if y.dtype == object else y},
        "objects.npz": {"X": X.astype(object), "y": np.array([{"a": 1}] * len(y), dtype=object)},
        "flat.npz": {"X": X[:, 0], "y": np.arange(len(y))},
        "four_axes.npz": {"X": X.reshape(-1, 1, 1, 2), "y": np.arange(len(y)) // 20},
        "complex.npz": {"X": X + 1j, "y": np.arange(len(y)) // 20},
        "nan.npz": {"X": np.where(X > 1, np.nan, X), "y": np.arange(len(y)) // 20},
        "short.npz": {"X": X, "y": np.arange(5)},
        "no_arrays.npz": {},
        "no_label.npz": {"X": X},
        "dates.npz": {"X": X, "y": np.full(len(y), np.datetime64("2020-01-01"))},
        "half.npz": {"X": X.astype(np.float16), "y": np.arange(len(y)) // 20},
        "negative.npz": {"X": X, "y": -(np.arange(len(y)) // 20)},
        "no_rows.npz": {"X": X[:0], "y": np.arange(0)},
        "no_columns.npz": {"X": X[:, :0], "y": np.arange(len(y)) // 20},
    }
    for ending, content in arrays.items():
        out[f"{name}_{ending}"] = lambda path, content=content: np.savez(path, **content)
    out[f"{name}_cut.npz"] = _cut
    out[f"{name}_declared.npz"] = _declared
    out[f"{name}_folder.csv"] = lambda path: path.mkdir()
    out[f"{name}_loop.csv"] = lambda path: path.symlink_to(path)
    out[f"{name}_dangling.csv"] = lambda path: path.symlink_to(path.with_name("nowhere"))
    out[f"{name}_pipe.csv"] = lambda path: os.mkfifo(path)
    out[f"{name}_pipe.npz"] = lambda path: os.mkfifo(path)
    out[f"{name}_null.csv"] = lambda path: path.symlink_to("/dev/null")
    return out


def _cut(path: Path) -> None:
    np.savez(path, X=np.ones((100, 2)), y=np.arange(100) // 20)
    path.write_bytes(path.read_bytes()[:300])


def _declared(path: Path) -> None:
    """Write an npz file whose array says that it is far larger than memory."""
    import io
    import zipfile

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2**40, 2**10)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("X.npy", header.getvalue())
        archive.writestr("y.npy", header.getvalue())


CONFIGS: dict[str, bytes] = {
    "empty.toml": b"",
    "binary.toml": bytes(range(256)),
    "deep.toml": b"a = " + b"[" * 3000 + b"]" * 3000,
    "unknown_table.toml": b"[nonsense]\na = 1\n",
    "unknown_key.toml": b"[train]\nnonsense = 1\n[predict]\nnonsense = 1\n[evaluate]\nnonsense = 1\n",
    "wrong_type.toml": b"[train]\nseed = 'many'\n[evaluate]\nnum-tasks = [1, 2]\n[predict]\nnum-steps = 'x'\n",
    "no_table.toml": b"train = 3\n",
    "huge.toml": b"[train]\nseed = 99999999999999999999999999\n[evaluate]\nseed = 99999999999999999999999999\n",
    "cut.toml": b"[train\nseed = ",
}

TARGETS = ("OUT", "/dev/null", "/dev/full", "/proc/none", "OUT/a\0b.csv", "OUT/x/y/z.csv", "")
TARGETS += tuple(f"OUT/a.{ending}" for ending in ("txt", "npz", "nc", "parquet"))
#: Values of flags that are numbers, and of those that are texts.
NUMBERS = (
    "-1",
    "0",
    "1e9",
    "1.5",
    "NaN",
    "inf",
    "",
    "text",
    "99999999999999999999999999",
    "3:1",
    "-2:-1",
    "0:0",
    "::",
    "0x10",
    "٣",
)
TEXTS = ("", " ", "nonsense", "a,b", "a\nb", "x" * 2000, "../..", "y", "-", "größe")
FLAGS: dict[str, dict[str, tuple[str, ...]]] = {
    "train": {
        "--label": TEXTS,
        "--groups": TEXTS,
        "--size": TEXTS,
        "--features": TEXTS,
        "--group-features": TEXTS,
        "--n-way": NUMBERS,
        "--n-shot": NUMBERS,
        "--n-query": NUMBERS,
        "--imbalance": NUMBERS,
        "--likelihood": TEXTS,
        "--num-steps": NUMBERS,
        "--beta": NUMBERS,
        "--profile": NUMBERS,
        "--batch-size": (*NUMBERS, "2.5"),
        "--num-iterations": ("-1", "1.5", "1e3", "NaN", "", "text"),
        "--objective": TEXTS,
        "--learning-rate": NUMBERS,
        "--seed": NUMBERS,
        "--device": TEXTS,
    },
    "predict": {
        "--label": TEXTS,
        "--groups": TEXTS,
        "--num-steps": NUMBERS,
    },
    "classify": {
        "--label": TEXTS,
        "--id": TEXTS,
        "--exclude": TEXTS,
        "--concentration": NUMBERS,
        "--sets": NUMBERS,
        "--num-steps": NUMBERS,
        "--report": ("", "-", "OUT", "OUT/a.csv", "/dev/full"),
    },
    "mixed": {
        "--likelihood": TEXTS,
        "--size": TEXTS,
        "--coverage": NUMBERS,
        "--seed": NUMBERS,
    },
    "evaluate": {
        "--label": TEXTS,
        "--groups": TEXTS,
        "--n-way": NUMBERS,
        "--n-shot": NUMBERS,
        "--n-query": NUMBERS,
        "--num-tasks": ("-1", "0", "1.5", "NaN", "", "text", "99999999999999999999999999"),
        "--num-steps": NUMBERS,
        "--seed": NUMBERS,
    },
    "diagnose": {
        "--label": TEXTS,
        "--num-tasks": ("-1", "0", "1", "1.5", "NaN", "", "text", "99999999999999999999999999"),
        "--n-way": ("-1", "0", "", "text", "9", "3:1"),
        "--seed": ("-1", "1.5", "", "text", "99999999999999999999999999"),
    },
    "demo": {
        "--seed": ("-1", "1.5", "", "text", "99999999999999999999999999"),
        "--num-iterations": ("-1", "0", "1e3", "", "text", "1.5", "99999999999999999999999999"),
    },
}


#: Flags whose values are whole numbers alone.
WHOLE = {"--batch-size", "--num-iterations", "--num-steps", "--num-tasks", "--profile", "--seed"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Hold right files, two trained models, and every hostile file."""
    home = tmp_path_factory.mktemp("command")
    classes().to_csv(home / "classes.csv", index=False)
    groups().to_csv(home / "groups.csv", index=False)
    for name in ("few", "more"):
        part = classes().iloc[::20] if name == "few" else classes().iloc[1::10]
        part.to_csv(home / f"{name}_classes.csv", index=False)
        (groups().iloc[::3] if name == "few" else groups().iloc[1::3]).to_csv(home / f"{name}_groups.csv", index=False)
    tasks = ebmeta.EpisodeSampler(classes()[list(FEATURES)].to_numpy(), classes()["y"], n_way=3, n_query=4)
    model = ebmeta.EmpiricalBayes.classifier(2, num_steps=1, width=4)
    ebmeta.save(ebmeta.fit(model, tasks, 3, batch_size=4, progress=False, device="cpu").model, home / "class_model")
    sampler = ebmeta.GroupSampler.from_frame(groups(), "y", "g", n_support=3)
    model = ebmeta.EmpiricalBayes.regressor(2, num_steps=1, width=4)
    ebmeta.fit(model, sampler, 3, batch_size=4, progress=False, device="cpu")
    ebmeta.save(model, home / "group_model", sampler.encoder)
    for name, make in {**table("c", classes()), **table("g", groups())}.items():
        make(home / name)
    for name, content in CONFIGS.items():
        (home / name).write_bytes(content)
    (home / "deep_model").mkdir()
    (home / "deep_model" / "config.json").write_text("[" * 100_000)
    (home / "empty_model").mkdir()
    return home


def _right(home: Path, kind: str) -> dict[str, list[str]]:
    """Return a right command line of every command, for classes ("c") or groups ("g")."""
    word = {"c": "class", "g": "group"}[kind]
    data = str(home / ("classes.csv" if kind == "c" else "groups.csv"))
    short = ["--num-iterations", "2", "--batch-size", "2", "--no-progress", "--device", "cpu"]
    tasks = ["--n-way", "3", "--n-query", "4"] if kind == "c" else ["--groups", "g"]
    known = ["--n-way", "3", "--n-query", "4"] if kind == "c" else []
    model = str(home / f"{word}_model")
    few, more = (str(home / f"{part}_{'classes' if kind == 'c' else 'groups'}.csv") for part in ("few", "more"))
    return {
        "train": ["train", data, "--output", "OUT/model", *short, *tasks],
        "classify": ["classify", few, more, "--output", "OUT/predictions.csv"],
        "mixed": ["mixed", str(home / "groups.csv"), "y ~ a + (1 | g)", "--output", "OUT/tables"],
        "predict": ["predict", model, few, more, "--output", "OUT/predictions.csv"],
        "evaluate": ["evaluate", model, data, "--num-tasks", "6", *known, "--json", "OUT/scores.json"],
        "diagnose": [
            "diagnose",
            model,
            data,
            "--num-tasks",
            "10",
            *known,
            "--no-progress",
            "--output",
            "OUT/page.html",
        ],
        "demo": ["demo", "OUT/demo", "--num-iterations", "1", "--no-progress"],
    }


def lines(home: Path) -> Iterator[list[str]]:
    """Yield hostile command lines: one file or one flag at a time, then two of each at random."""
    files = {kind: sorted(p for p in table(kind, classes())) for kind in "cg"}
    for kind in "cg":
        right = _right(home, kind)
        for file in files[kind]:
            path = str(home / file)
            train, predict, evaluate, diagnose = (right[c] for c in ("train", "predict", "evaluate", "diagnose"))
            yield ["classify", path, *right["classify"][2:]]
            yield ["classify", path, *right["classify"][3:]]
            yield [*right["classify"][:2], path, *right["classify"][3:]]
            yield ["mixed", path, *right["mixed"][2:]]
            yield [*right["mixed"], "--predict", path]
            yield [*train[:1], path, *train[2:]]
            yield [*train, "--validation", path]
            yield [*predict[:2], path, *predict[3:]]
            yield [*predict[:3], path, *predict[4:]]
            yield [*evaluate[:2], path, *evaluate[3:]]
            yield [*diagnose[:2], path, *diagnose[3:]]
            yield [*evaluate[:1], path, *evaluate[2:]]
        for command, flags in FLAGS.items():
            for flag, values in flags.items():
                for value in values:
                    yield [*right[command], flag, value]
                    if value.startswith("-"):
                        yield [*right[command], f"{flag}={value}"]
        for name in CONFIGS:
            for command in ("train", "predict", "evaluate"):
                yield [*right[command], "--config", str(home / name)]
        for model in ("deep_model", "empty_model", "classes.csv", "nowhere", "group_model", "class_model", "/dev/null"):
            for command in ("predict", "evaluate", "diagnose"):
                line = list(right[command])
                line[1] = str(home / model)
                yield line
        for target in (
            "OUT",
            "/dev/null",
            "/dev/full",
            "/proc/none",
            "OUT/a\0b.csv",
            "OUT/x/y/z.csv",
            "",
            "OUT/a.txt",
            "OUT/a.npz",
            "OUT/a.nc",
            "OUT/a.parquet",
        ):
            yield [*right["predict"][:-1], target]
            yield [*right["evaluate"][:-1], target]
    rng = random.Random(13)
    every = [(kind, file) for kind in "cg" for file in files[kind]]
    for (kind, first), (_, second) in zip(rng.sample(every, 60), rng.sample(every, 60), strict=True):
        predict = _right(home, kind)["predict"]
        yield [*predict[:2], str(home / first), str(home / second), *predict[4:]]
    yield from (
        [],
        ["nonsense"],
        ["train"],
        ["--help"],
        ["--version"],
        ["predict", "--help"],
        ["--config"],
        ["-1"],
        [""],
    )


def state(home: Path) -> dict[str, str]:
    """Return the names of all files, and what is in those that can be read."""
    out = {}
    for path in sorted(home.rglob("*")):
        plain = path.is_file() and not path.is_symlink()
        out[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() if plain else oct(path.lstat().st_mode)
    return out


def judge(line: list[str], out: Path, capture: Any) -> str | None:
    """Run one command line; return what is wrong with how it ended, or None."""
    tokens = [token.replace("OUT", str(out)) for token in line]
    capture.readouterr()
    try:
        with limited(SECONDS):
            code = main(tokens)
    except TooLongError:
        return "did not come back"
    except BaseException as error:  # whatever leaves `main` would be a traceback
        return f"left with {type(error).__name__}: {str(error)[:100]}"
    said = capture.readouterr()
    errors = [text for text in said.err.splitlines() if text.strip()]
    stray = [p.name for p in out.rglob("*") if p.name.startswith(".") or p.name.endswith(".tmp")]
    if stray:
        return f"left {stray[0]} behind"
    if code == 2:
        last = errors[-1] if errors else ""
        if not last.startswith("ebmeta: error: ") or len(errors) != 1:
            return f"said {said.err[:200]!r}"
        if len(last) > LONGEST + 250 or "unexpected" in last or "Traceback" in last:
            return f"said {last[:250]!r} ({len(last)} letters)"
        return None
    if code != 0:
        return f"ended with {code}"
    for flag, value in itertools.pairwise(line):
        if flag in WHOLE and not re.fullmatch(r"\d+", value):
            return f"took {value!r} for a whole number"
    if line[:1] == ["demo"]:
        return "ran, where all is to be refused"
    return _written(line, tokens, out)


def _written(line: list[str], tokens: list[str], out: Path) -> str | None:
    """Look at what a command that ended well has written."""
    command = line[0] if line else ""
    file = out / "predictions.csv"
    if command == "predict" and "--help" not in line and "OUT/predictions.csv" in line:
        if not file.is_file():
            return "wrote no predictions"
        table = pd.read_csv(file)
        query = Path(tokens[3])
        if query.suffix == ".csv" and len(table) != len(pd.read_csv(query)):
            return f"wrote {len(table)} predictions of {len(pd.read_csv(query))} rows"
        numbers = table.select_dtypes("number")
        if not np.isfinite(numbers.to_numpy()).all():
            return "wrote numbers that are not finite"
        probs = [c for c in table if str(c).startswith("p_")]
        if probs and not np.allclose(table[probs].sum(1), 1, atol=1e-4):
            return "wrote probabilities that do not add up to 1"
    if command == "evaluate" and "OUT/scores.json" in line:
        scores = json.loads((out / "scores.json").read_text())
        if not all(v is not None and np.isfinite(v) for v in np.ravel(scores["nll"])):
            return f"wrote the scores {scores['nll']}"
    if command == "train" and not (out / "model" / "config.json").is_file() and "--help" not in line:
        return "wrote no model"
    return None


def test_a_hostile_command_line_is_done_or_refused_in_one_line(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chosen = scale.share(list(lines(folder)), seed=17)
    before, faults = state(folder), []
    for number, line in enumerate(chosen):
        out = tmp_path / f"{number}"
        out.mkdir()
        fault = judge(line, out, capsys)
        if fault is not None:
            faults.append(f"ebmeta {' '.join(token.replace(str(folder), 'F')[:80] for token in line)}: {fault}")
    after = state(folder)
    faults += [f"changed {name}" for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    assert scale.SCALE < 1 or len(chosen) >= 600
    assert not faults, f"{len(faults)} of {len(chosen)} command lines:\n" + "\n".join(itertools.islice(faults, 300))
