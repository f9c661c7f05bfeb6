"""The training of the general classifier, cut to two iterations on the digits of scikit-learn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import ebmeta
import general_classifier
from ebmeta.model.recipes import GeneralRecipe
from lib.corpus import classes


def test_every_part_is_trained_and_in_the_same_way_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for name in ("one", "two"):
        monkeypatch.setattr(general_classifier, "model_folder", lambda name=name: tmp_path / name)
        (tmp_path / name).mkdir()
        found.append(general_classifier.trained(["digit_pixels"], "digits", 2).state_dict())
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])
    start = ebmeta.EmpiricalBayes.from_recipe(GeneralRecipe(), 0.0, seed=general_classifier.SEED)
    for key in ("prior.level", "prior.readout.weight", "refiner.synthetic_gradient.readout.weight"):
        assert not torch.equal(found[0][key], start.state_dict()[key])


def test_tasks_number_the_classes_of_their_rows() -> None:
    rows, (batch,) = classes("digit_pixels")[0], general_classifier.tasks_of("digit_pixels", "5way_1shot", 25)
    for x, y, number in zip(batch.support_x, batch.support_y, batch.way_class, strict=True):
        assert all((rows[int(number[c])] == row.numpy()).all(1).any() for row, c in zip(x, y, strict=True))


def test_lead_is_the_mean_difference_with_an_interval_over_encoders() -> None:
    def scored(accuracy: float) -> dict[str, list[float]]:
        return {"accuracy": [accuracy, 0.0], "nll": [1.0, 0.0], "ece": [0.0, 0.0]}

    cells = {
        name: {"column": {"ebmeta": {"end": scored(ours)}, "peer": scored(0.5)}}
        for name, ours in {"one": 0.6, "other": 0.8}.items()
    }
    found = general_classifier.lead(cells, "peer")["accuracy"]
    assert found == pytest.approx([0.2, 12.706205 * 0.1])  # of Student's t with one degree of freedom
