"""The wide residual network of benchmarks/: its layers, its images, its training."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from textures import textures
from torch.nn.functional import cross_entropy, one_hot, relu

from lib.wide_resnet import Mixup, Schedule, Training, WideResNet, augment, extract, images, read, rotate

CPU = torch.device("cpu")


def trunk_parameters(depth: int, width: int) -> int:
    """Count by hand: 3 x 3 kernels, 1 x 1 shortcuts where channels change, two numbers per normalised channel."""
    total, channels = 3 * 16 * 9, 16
    for out in (16 * width, 32 * width, 64 * width):
        for _ in range((depth - 4) // 6):
            total += 2 * channels + 9 * channels * out + 2 * out + 9 * out * out
            total += channels * out if channels != out else 0
            channels = out
    return total + 2 * channels


@pytest.mark.parametrize(("depth", "width"), [(10, 1), (16, 2), (28, 10)])
def test_parameters(depth, width):
    """With a linear head for 10 classes, WRN-28-10 has the 36,479,194 parameters known of it (36.5M)."""
    network = WideResNet(depth, width, num_classes=64)
    features = 64 * width
    heads = 64 * features + 1 + 4 * features + 4
    assert sum(p.numel() for p in network.parameters()) - heads == trunk_parameters(depth, width)
    if depth == 28:
        assert trunk_parameters(depth, width) + 10 * (features + 1) == 36_479_194


def test_a_block_keeps_what_passes_it():
    """With its second convolution at zero a block of equal channels is the identity."""
    block = WideResNet(10, 1, 5).groups[0][1]
    torch.nn.init.zeros_(block.conv2.weight)
    hidden = torch.randn(2, 16, 8, 8)
    assert block.shortcut is None
    assert torch.equal(block(hidden), hidden)


def test_initial_weights_depend_on_the_seed_alone(rng_untouched):
    first, again, other = (WideResNet(10, 1, 5, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["classes"], other["classes"])


@pytest.mark.parametrize("arguments", [{"depth": 12}, {"depth": 4}, {"width": 0}, {"num_classes": 0}])
def test_impossible_networks_are_refused(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}: expected"):
        WideResNet(**arguments)


def test_rotation_labels():
    """A mark in the top left corner goes to the bottom left, the bottom right, the top right."""
    pixels = torch.zeros(2, 3, 4, 4)
    pixels[:, :, 0, 0] = torch.tensor([[1.0, 2, 3], [4, 5, 6]])
    turned, quarters = rotate(pixels)
    assert quarters.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    for i, (row, column) in enumerate([(0, 0), (3, 0), (3, 3), (0, 3)]):
        wanted = torch.zeros(2, 3, 4, 4)
        wanted[:, :, row, column] = pixels[:, :, 0, 0]
        assert torch.equal(turned[2 * i : 2 * i + 2], wanted)


@pytest.mark.parametrize("layer", range(4))
def test_mixup_of_weight_one_is_none(layer):
    network, x = WideResNet(10, 1, 5).eval(), torch.randn(6, 3, 8, 8)
    y, order = torch.tensor([0, 1, 2, 3, 4, 0]), torch.tensor([3, 5, 0, 1, 2, 4])
    plain, mixup = network(x)[0], Mixup(layer, order, 1.0)
    assert torch.equal(network(x, mixup)[0], plain)
    assert torch.equal(mixup.loss(plain, y), cross_entropy(plain, y))
    swapped = Mixup(layer, order, 0.0)
    torch.testing.assert_close(network(x, swapped)[0], plain[order])
    torch.testing.assert_close(swapped.loss(plain, y), cross_entropy(plain, y[order]))


def test_mixup_mixes_features_and_labels_alike():
    network, x = WideResNet(10, 1, 5).eval(), torch.randn(6, 3, 8, 8)
    y, order = torch.tensor([0, 1, 2, 3, 4, 0]), torch.tensor([3, 5, 0, 1, 2, 4])
    groups = network.groups
    for layer in range(4):
        hidden = x
        for group in groups[:layer]:
            hidden = group(hidden)
        hidden = 0.3 * hidden + 0.7 * hidden[order]
        for group in groups[layer:]:
            hidden = group(hidden)
        wanted = relu(network.norm(hidden)).mean((2, 3))
        torch.testing.assert_close(network.embed(x, Mixup(layer, order, 0.3)), wanted)
    mixup, scores = Mixup(0, order, 0.3), network(x)[0]
    soft = 0.3 * one_hot(y, 5) + 0.7 * one_hot(y[order], 5)
    torch.testing.assert_close(mixup.loss(scores, y), cross_entropy(scores, soft))


def test_mixup_draws():
    """Beta(2, 2) has mean 1/2 and variance 1/20, and the four depths are alike: bounds of 5 standard errors."""
    rng = np.random.default_rng(0)
    draws = [Mixup.draw(4, 2.0, rng, CPU) for _ in range(4000)]
    weights = np.array([d.weight for d in draws])
    assert abs(weights.mean() - 0.5) < 5 * np.sqrt(0.05 / 4000)
    assert abs(weights.var() - 0.05) < 5 * np.sqrt(0.05**2 * (15 / 7 - 1) / 4000)  # a kurtosis of 15/7
    assert np.abs(np.bincount([d.layer for d in draws]) - 1000).max() < 5 * np.sqrt(4000 * 3 / 16)
    assert all(sorted(d.order.tolist()) == [0, 1, 2, 3] for d in draws)


def test_crops_are_windows_of_the_reflected_image(monkeypatch):
    monkeypatch.setattr(images, "JITTER", 0.0)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, 12, 12, 3), dtype=np.uint8)
    index = torch.arange(5).repeat(60)
    out = augment(torch.from_numpy(pixels), index, rng).permute(0, 2, 3, 1) * 0.25 + 0.5
    padded = np.pad(pixels, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="reflect")
    found = set()
    for i, crop in zip(index.tolist(), (255 * out).round().to(torch.uint8).numpy(), strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(padded[i], (12, 12), (0, 1)).transpose(0, 1, 3, 4, 2)
        places = [(f, *p) for f, w in enumerate((windows, windows[..., ::-1, :])) for p in match(w, crop)]
        assert len(places) == 1
        found.add(places[0])
    assert len({p[0] for p in found}) == 2
    assert {p[1] for p in found} == {p[2] for p in found} == set(range(9))


def match(windows: np.ndarray, crop: np.ndarray) -> list[tuple[int, int]]:
    return [(int(a), int(b)) for a, b in np.argwhere((windows == crop).all((2, 3, 4)))]


def test_jitter_of_flat_images():
    """On a flat grey image contrast and saturation do nothing, and brightness is uniform in [0.6, 1.4]."""
    flat = torch.full((1, 4, 4, 3), 102, dtype=torch.uint8)  # a value of 0.4
    out = augment(flat, torch.zeros(2000, dtype=torch.long), np.random.default_rng(0)) * 0.25 + 0.5
    value = out[:, :1, :1, :1]
    torch.testing.assert_close(out, value.expand_as(out))
    factor = value / 0.4
    assert 0.6 <= float(factor.min()) < 0.61
    assert 1.39 < float(factor.max()) <= 1.4 + 1e-6
    assert abs(float(factor.mean()) - 1) < 5 * 0.8 / np.sqrt(12 * 2000)


def test_saturation():
    """Saturation s takes red of luminance 0.299 to (s + (1 - s) 0.299, (1 - s) 0.299, ...), clipped to [0, 1]."""
    red = torch.zeros(1, 2, 2, 3)
    red[..., 0] = 1.0
    out = images._blend(red, images._grey(red), torch.tensor(0.6))
    torch.testing.assert_close(out[0, 0, 0], torch.tensor([0.6 + 0.4 * 0.299, 0.4 * 0.299, 0.4 * 0.299]))


PLAN = Schedule(rotation_epochs=2, mixup_epochs=2, batch_size=8, seed=3)


def training(plan: Schedule = PLAN, width: int = 1, device: torch.device = CPU, compiled: bool = False) -> Training:
    pixels = textures(4, 6, 8, np.random.default_rng(1)).reshape(-1, 8, 8, 3)
    return Training(WideResNet(10, width, 4), pixels, np.repeat(np.arange(4), 6), plan, device, compiled)


def everything(run: Training) -> dict[str, torch.Tensor]:
    momentum = {f"momentum {i}": s["momentum_buffer"] for i, s in run.optimizer.state_dict()["state"].items()}
    return run.network.state_dict() | momentum | {"losses": run.losses, "iteration": torch.tensor(run.iteration)}


@pytest.mark.parametrize("stops", [[1], [4, 5], [6], [8, 11]])
def test_an_interrupted_run_ends_as_the_uninterrupted(tmp_path, stops):
    """Bit for bit, stopped within an epoch, between the stages, and in the second of them."""
    whole = training()
    assert whole.total == 12
    assert whole.run(tmp_path / "whole.pt")
    path = tmp_path / "state.pt"
    for stop in stops:
        part = training()
        if path.exists():
            part.load(path)
        while part.iteration < stop:
            part.step()
        part.save(path)
    rest = training()
    assert rest.run(path)
    wanted, got = everything(whole), everything(rest)
    assert wanted.keys() == got.keys()
    assert all(torch.equal(wanted[k], got[k]) for k in wanted)
    assert not torch.equal(training().network.state_dict()["classes"], got["classes"])


def test_the_state_of_another_run_is_refused(tmp_path):
    path = tmp_path / "state.pt"
    training().save(path)
    with pytest.raises(ValueError, match="expected a run with seed=4, got 3"):
        training(dataclasses.replace(PLAN, seed=4)).load(path)
    with pytest.raises(ValueError, match="expected a run with features=128, got 64"):
        training(width=2).load(path)


def test_training_learns_textures():
    """24 images of 4 textures: the class loss falls far below log 4."""
    run = training(dataclasses.replace(PLAN, rotation_epochs=20, mixup_epochs=1))
    while run.iteration < run.total:
        run.step()
    losses = run.stage_losses()
    assert losses["rotation"][0] < 0.5
    assert losses.keys() == {"rotation", "mixup"}


def test_the_rotation_losses_by_hand():
    """The mean over all four turns of every image, class labels kept, turns counted."""
    run = training()
    run.network.eval()
    x, y = torch.randn(8, 3, 8, 8), torch.arange(8) % 4
    classes, turns = run._rotation_losses(x, y)
    views = [run.network(torch.rot90(x, r, (2, 3))) for r in range(4)]
    torch.testing.assert_close(classes, torch.stack([cross_entropy(c, y) for c, _ in views]).mean())
    labels = [torch.full((8,), r) for r in range(4)]
    wanted = torch.stack([cross_entropy(v[1], r) for v, r in zip(views, labels, strict=True)]).mean()
    torch.testing.assert_close(turns, wanted)


def test_learning_rates():
    plan, per_epoch = Schedule(rotation_epochs=4, mixup_epochs=2, learning_rate=0.1), 50  # 200 and 100 steps
    rates = np.array([plan.rate(n, per_epoch) for n in range(300)])
    np.testing.assert_allclose(rates[:10], 0.01 * np.arange(1, 11))
    np.testing.assert_allclose([rates[10], rates[105], rates[200], rates[205]], [0.1, 0.05, 0.004, 0.02])
    assert rates[199] < 1e-4 * 0.1
    assert rates[299] < 3e-4 * 0.1


@pytest.mark.parametrize("change", [{"batch_size": 3}, {"batch_size": 25}, {"mixup_epochs": -1}])
def test_impossible_schedules_are_refused(change):
    with pytest.raises(ValueError, match=r"(batch_size|epochs): expected"):
        training(dataclasses.replace(PLAN, **change))


def test_features(monkeypatch):
    """The network's own, to the precision of bfloat16, in batches that do not divide the images."""
    monkeypatch.setattr("lib.wide_resnet.features.BATCH", 3)
    pixels, network = textures(2, 5, 8, np.random.default_rng(0)), WideResNet(10, 1, 3)
    got = extract(network, pixels, CPU)
    assert got.dtype == np.float16
    wanted = [network.embed(images.standardise(torch.from_numpy(c).float() / 255)).detach() for c in pixels]
    np.testing.assert_allclose(got, torch.stack(wanted), atol=0.05, rtol=0.05)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:The .grad attribute", "ignore:.*torch.jit.script_method")  # while torch compiles
@pytest.mark.parametrize("compiled", [False, True])
def test_training_on_a_gpu(compiled, monkeypatch):
    """The same augmentation as on a CPU, and after a few epochs a class loss below log 4."""
    checks = torch.distributions.Distribution
    monkeypatch.setattr(checks, "_validate_args", checks._validate_args)  # torch.compile turns them off for good
    device, plan = torch.device("cuda"), dataclasses.replace(PLAN, rotation_epochs=20, mixup_epochs=1)
    run = training(plan, device=device, compiled=compiled)
    views = [
        augment(run.images.to(d), torch.arange(8, device=d), np.random.default_rng(0)).cpu() for d in (CPU, device)
    ]
    torch.testing.assert_close(views[0], views[1])
    while run.iteration < run.total:
        run.step()
    assert run.stage_losses()["rotation"][0] < 0.5


def test_files_that_are_not_images_are_refused(tmp_path):
    np.savez(tmp_path / "images_val.npz", images=np.zeros((2, 3, 4, 4)), classes=np.array(["a", "b"]))
    with pytest.raises(ValueError, match=r"images_val.npz: expected uint8 images"):
        read(tmp_path, "val")
