"""The training of the general classifier, cut to two iterations on the digits of scikit-learn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import ebmeta
import general_classifier
from ebmeta.model.recipes import GeneralRecipe


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
