"""The Omniglot benchmark: its encoder continues exactly, its baseline is the one it names, and every part runs."""

import numpy as np
import pytest
import torch

import ebmeta
import omniglot
from ebmeta.prediction.class_jackknife import class_half_width
from lib import omniglot_encoder


def _drawings(classes: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (classes, 20, 28, 28), dtype=np.uint8)


def test_a_stopped_encoder_continues_to_the_same_parameters(tmp_path, monkeypatch):
    X, sizes = _drawings(), {"iterations": 5, "batch_size": 8, "checkpoint_every": 2}
    whole, _ = omniglot_encoder.train(X, tmp_path / "whole.pt", **sizes)
    augment, calls = omniglot_encoder.augment, []

    def stop_at_the_fourth(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return augment(*arguments)

    monkeypatch.setattr(omniglot_encoder, "augment", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        omniglot_encoder.train(X, tmp_path / "part.pt", **sizes)
    continued, _ = omniglot_encoder.train(X, tmp_path / "part.pt", **sizes)
    assert len(calls) == 4 + 3  # from the checkpoint after two steps
    assert all(torch.equal(v, continued.state_dict()[k]) for k, v in whole.state_dict().items())
    with pytest.raises(ValueError, match=r"part.pt: expected an encoder of settings"):
        omniglot_encoder.train(X, tmp_path / "part.pt", **sizes | {"iterations": 6})


def test_augmentation_without_randomness_is_the_identity(monkeypatch):
    x = torch.rand(4, 1, 28, 28)
    rng = torch.Generator().manual_seed(0)
    assert (omniglot_encoder.augment(x, rng) - x).abs().mean() > 0.1
    monkeypatch.setattr(torch, "rand", lambda *shape, generator: torch.full(shape, 0.5))
    monkeypatch.setattr(torch, "randn", lambda *shape, generator: torch.zeros(shape))
    torch.testing.assert_close(omniglot_encoder.augment(x, rng), x, atol=1e-4, rtol=0)


def test_a_class_turned_four_times_is_itself():
    X = _drawings(2)
    once = omniglot_encoder.turned(X)
    np.testing.assert_array_equal(once[:2], X)
    np.testing.assert_array_equal(np.rot90(once[6:], 1, (2, 3)), X)
    assert len(np.unique(once.reshape(8, -1), axis=0)) == 8


def test_prototypes_are_nearest_means_by_cosine():
    x = np.random.default_rng(0).normal(size=(6, 20, 4)).astype(np.float32)
    x += 2 * np.random.default_rng(1).normal(size=(6, 1, 4)).astype(np.float32)
    tasks, scores = omniglot.sampler(x, 3, 2, 5), []
    for batch in (tasks.sample(64, 0), tasks.sample(6, 1)):
        for t in range(batch.num_tasks):
            support, query = (v[t] / v[t].norm(dim=-1, keepdim=True) for v in (batch.support_x, batch.query_x))
            means = torch.stack([support[batch.support_y[t] == c].mean(0) for c in range(3)])
            cosine = torch.stack([torch.cosine_similarity(query, m, dim=-1) for m in means], -1)
            scores.append((cosine.argmax(-1) == batch.query_y[t]).double().mean().item())
    result = omniglot.prototypes(tasks, 70)
    assert 0.4 < np.mean(scores) < 0.95
    assert result["accuracy"] == pytest.approx(np.mean(scores), abs=1e-5)
    assert result["accuracy_half_width"] == pytest.approx(1.96 * np.std(scores, ddof=1) / 70**0.5, abs=1e-5)
    classes = torch.cat([tasks.sample(n, i).way_class for i, n in enumerate((64, 6))]).numpy()
    over = class_half_width(np.array(scores), classes)
    assert result["accuracy_half_width_classes"] == pytest.approx(over, abs=1e-5)


@pytest.mark.usefixtures("shared_data")
def test_every_part_runs_and_a_second_run_uses_what_the_first_left(tmp_path, monkeypatch):
    """Twenty encoder steps at fixed seeds reach about twice the accuracy of chance, 0.2."""
    result = omniglot.run(tmp_path, omniglot.SMOKE)
    steps = ebmeta.EmpiricalBayes.classifier(omniglot.FEATURES).num_steps
    for ways, shots in omniglot.SETTINGS:
        assert len(result[f"{ways}way_{shots}shot"]["test"]["accuracy"]) == steps + 1
    assert result["5way_1shot"]["prototypes"]["accuracy"] > 0.3
    assert result["5way_1shot"]["test"]["accuracy"][-1] > 0.3
    assert result["classes"] == {"train": 24, "val": 24, "test": 24}
    monkeypatch.setattr(omniglot_encoder, "augment", None)
    monkeypatch.setattr(omniglot, "features", None)
    x, seconds = omniglot.encoded(tmp_path, omniglot.SMOKE, seed=0)
    assert {name: part.shape for name, part in x.items()} == dict.fromkeys(result["classes"], (24, 20, 128))
    assert round(seconds, 1) == result["encoder"]["cpu_seconds"]
