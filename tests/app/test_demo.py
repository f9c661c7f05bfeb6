"""The demo: what it trains on, what it writes, and that it says what it measured."""

import json
import re

import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.datasets import load_digits

import ebmeta
from ebmeta.app import demo
from ebmeta.app.cli import main
from ebmeta.diagnostics import diagnose


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """Return the folder, the result and the printed lines of a short run."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("builtins.print", lambda *words: lines.extend(" ".join(map(str, words)).split("\n")))
        result = demo.run(folder, seed=3, num_iterations=12, progress=False, num_tasks=40)
    return folder, result, lines


def test_classes_are_digits_in_all_positions():
    X, y = demo.classes()
    data = load_digits()
    assert X.shape == (8 * 1797, 64)
    assert len(set(y)) == 80
    image = data.images[0] / 16 - 0.5
    same = X[y == 8 * data.target[0] + 2 * 1 + 1]
    assert (np.abs(same + np.rot90(image).ravel()).max(1) < 1e-6).sum() == 1


def test_no_image_of_a_test_digit_is_trained_on():
    sources = demo.samplers()
    digits = {name: set(source.classes // 8) for name, source in sources.items()}
    assert digits["train"] == {0, 1, 6, 8, 9}
    assert set().union(*digits.values()) == set(range(10))
    assert sum(map(len, digits.values())) == 10
    shape = (-1, 8, 8)
    seen = {image.tobytes() for image in sources["train"].X.reshape(shape)}
    for name in ("validation", "test"):
        images = sources[name].X.reshape(shape)
        for turns in range(4):
            turned = np.rot90(images, turns, axes=(1, 2))
            for image in (turned, -turned):
                assert not seen & {np.ascontiguousarray(i).tobytes() for i in image}


class Camera:
    """A generator whose draws are known: no tilt, unit gain, narrow blur, no noise unless told."""

    def __init__(self, gain=0.0, angle=0.0, tilt=0.0, width=1e-3, noise=0.0):
        self.values = {"gain": gain, "uniform": [angle, tilt, width, noise]}

    def normal(self, mean, scale):
        return self.values["gain"]

    def uniform(self, low, high):
        return self.values["uniform"].pop(0)

    def standard_normal(self, shape):
        return np.ones(shape)


def test_camera():
    rows = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 64))
    np.testing.assert_allclose(demo.camera(rows, Camera()), rows)
    np.testing.assert_allclose(demo.camera(rows, Camera(gain=np.log(2), noise=0.1)), 2 * (rows + 0.1))
    light = demo.camera(rows, Camera(tilt=0.5)) - rows
    np.testing.assert_allclose(light[0].reshape(8, 8)[:, 3], np.linspace(-0.5, 0.5, 8))
    flat = demo.camera(np.full((1, 64), 0.25), Camera(width=0.9))
    np.testing.assert_allclose(flat, 0.25)
    assert demo.camera(rows, Camera(width=0.9)).std() < rows.std()


def test_files(short):
    folder, result, _ = short
    wanted = {"model", "predictions.nc", "refinement.png", "reliability.png", "result.json", "tasks.png"}
    wanted |= {"diagnosis.html", "diagnosis.json", "pile.png", "patients.png"}
    assert {path.name for path in folder.iterdir()} == wanted
    assert json.loads((folder / "result.json").read_text(encoding="utf-8")) == result
    for name in ("pile", "patients", "refinement", "reliability", "tasks"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_predictions_are_those_of_the_saved_model(short):
    folder, result, _ = short
    model = ebmeta.load(folder / "model")
    batch = demo.samplers(3)["test"].sample(8, index=10_000)
    fresh = ebmeta.predict(model, batch, num_draws=0)
    with xr.open_datatree(folder / "predictions.nc", engine="h5netcdf") as tree:
        np.testing.assert_allclose(tree["predictive/probs"], fresh["predictive/probs"], atol=1e-6)
        np.testing.assert_array_equal(tree["observed_data/query_y"], batch.query_y)
    again = ebmeta.evaluate(model, demo.samplers(3)["test"], 40)
    np.testing.assert_allclose(again["accuracy"], result["refined"]["accuracy"])
    np.testing.assert_allclose(again["nll"], result["refined"]["nll"], rtol=1e-5)


def test_last_line_says_what_was_measured(short):
    _, result, lines = short
    assert lines[-1] == result["summary"]
    numbers = [float(v) for v in re.findall(r"[+-]?\d+\.\d+", lines[-1])]
    before, after, gain, nll_before, nll_after = numbers
    accuracy, nll = result["refined"]["accuracy"], result["refined"]["nll"]
    assert (before, after) == pytest.approx((100 * accuracy[0], 100 * accuracy[-1]), abs=0.051)
    assert gain == pytest.approx(100 * (accuracy[-1] - accuracy[0]), abs=0.051)
    assert (nll_before, nll_after) == pytest.approx((nll[0], nll[-1]), abs=0.0051)
    for name, said in (
        ("baseline", "A model trained for no refinement"),
        ("general", "The general classifier, without"),
    ):
        (line,) = [line for line in lines if line.strip().startswith(said)]
        assert f"accuracy {100 * result[name]['accuracy'][-1]:.1f}%" in line
    assert f"{result['pile']['accuracy']:.0%} of the pile are right" in "".join(lines)
    assert f"{result['patients']['coverage']:.0%} of later readings" in "".join(lines)


def test_the_general_classifier_is_scored_on_the_same_tasks(short):
    scores = ebmeta.evaluate(ebmeta.general_classifier(), demo.samplers(3)["test"], 40)
    np.testing.assert_allclose(short[1]["general"]["accuracy"], scores["accuracy"])


def test_page_of_checks_says_what_the_line_says(short):
    folder, result, lines = short
    found = json.loads((folder / "diagnosis.json").read_text(encoding="utf-8"))
    assert (found["status"], found["num_tasks"]) == (result["trust"], 40)
    (line,) = [line for line in lines if line.startswith("Can the trained model be trusted?")]
    headline = line.removeprefix("Can the trained model be trusted? ").partition(" Open ")[0]
    assert found["summary"].startswith(headline)
    assert headline in (folder / "diagnosis.html").read_text(encoding="utf-8")
    again = diagnose(ebmeta.load(folder / "model"), demo.samplers(3)["test"], 40, seed=3, progress=False)
    assert again.summary == found["summary"]


def test_the_command_uses_one_thread_and_gives_the_others_back(tmp_path, monkeypatch):
    used = []
    monkeypatch.setattr(demo, "run", lambda *arguments, **options: used.append(torch.get_num_threads()) or {})
    torch.set_num_threads(2)
    try:
        assert main(["demo", str(tmp_path / "demo")]) == 0
        assert (used, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(1)


def test_same_seed_same_numbers(short, tmp_path, capsys, monkeypatch, rng_untouched):
    threads, set_threads = torch.get_num_threads(), []
    monkeypatch.setattr(torch, "set_num_threads", set_threads.append)
    again = demo.run(tmp_path, seed=3, num_iterations=12, progress=False, num_tasks=40)
    assert {**again, "seconds": 0} == {**short[1], "seconds": 0}
    assert torch.get_num_threads() == threads
    assert set_threads == []  # other threads of the caller compute too
    assert capsys.readouterr().out.endswith(f"{again['summary']}\n")


def test_arguments_out_of_range(tmp_path):
    with pytest.raises(ValueError, match="num_tasks: expected at least 2, got 1"):
        demo.run(tmp_path, num_tasks=1)
    with pytest.raises(ValueError, match="num_iterations: expected at least 1, got 0"):
        demo.run(tmp_path, num_iterations=0, progress=False)
    with pytest.raises(ValueError, match="seed: expected a non-negative integer of at most 63 bits, got -1"):
        demo.run(tmp_path, seed=-1)
