"""The gallery: short scripts that run as they are, each with a picture; the documentation's build executes them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest

import ebmeta

DOCS = Path(__file__).parents[2] / "docs"
SCRIPTS = sorted((DOCS / "examples").glob("plot_*.py"))
SUBJECTS = ["intents", "digits", "own_encoder", "following_a_run", "shops", "schools"]
SUBJECTS += ["own_likelihood", "spinning_lines", "pyro"]


def test_each_subject_has_a_script_in_this_order():
    assert [path.stem for path in SCRIPTS] == [f"plot_{n}_{name}" for n, name in enumerate(SUBJECTS, 1)]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_is_short_has_a_title_and_a_picture_and_needs_no_file(path: Path):
    text = path.read_text(encoding="utf-8")
    title, line, empty, *_ = (ast.get_docstring(ast.parse(text), clean=True) or "").splitlines()
    assert line == "=" * len(title)
    assert empty == ""
    assert text.count("\n") <= 110
    assert len(re.findall(r"^# %%$", text, re.M)) >= 2  # cells of the notebook
    assert "plt.subplots(" in text
    assert not re.search(r"EBMETA_DATA|shared/|https?://|fetch_|read_csv\(", text)


def test_the_build_executes_them_and_stops_at_an_error():
    conf: dict[str, object] = {"__file__": str(DOCS / "conf.py")}
    text = (DOCS / "conf.py").read_text(encoding="utf-8")
    exec(text[text.index("sphinx_gallery_conf") : text.index("html_math_renderer")], conf)
    settings = conf["sphinx_gallery_conf"]
    assert settings["abort_on_example_error"]
    assert settings["examples_dirs"] == "examples"
    assert '"sphinx_gallery.gen_gallery"' in text
    assert f"\n{settings['gallery_dirs']}/index\n" in (DOCS / "index.md").read_text(encoding="utf-8")


def test_the_writer_for_tensorboard_writes_the_history(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    text = (DOCS / "examples" / "plot_4_following_a_run.py").read_text(encoding="utf-8")
    writers = [node for node in ast.parse(text).body if getattr(node, "name", "") == "to_tensorboard"]
    names: dict[str, object] = {}
    exec(compile(ast.Module(writers, []), "example", "exec"), names)
    assert ast.unparse(writers[0]).splitlines()[-1] in (DOCS / "tutorial.md").read_text(encoding="utf-8")
    y = np.repeat(np.arange(12), 8)
    x = np.random.default_rng(0).normal(size=(12, 4))[y] + np.random.default_rng(1).normal(size=(96, 4))
    train, other = (ebmeta.EpisodeSampler(x[rows], y[rows], n_way=3, n_query=4) for rows in (y < 8, y >= 8))
    with SummaryWriter(tmp_path) as writer:
        run = ebmeta.fit(
            ebmeta.EmpiricalBayes.classifier(4, num_steps=1),
            train,
            5,
            4,
            validation=other,
            validate_every=2,
            validation_tasks=4,
            callbacks=[names["to_tensorboard"](writer)],  # type: ignore[operator]
            device="cpu",
            progress=False,
        )
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(run.history.data_vars)
    for name, of_step in run.history.data_vars.items():
        values = of_step.values if of_step.ndim == 1 else of_step.values[:, -1]
        scalars = events.Scalars(name)
        assert [scalar.step for scalar in scalars] == of_step[of_step.dims[0]].values.tolist()
        np.testing.assert_allclose([scalar.value for scalar in scalars], values, rtol=1e-6)  # of 32 bits
