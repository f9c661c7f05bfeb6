"""Centre and unit in 64 bits: the digits in which large numbers differ are kept, or their loss is said."""

import pytest
import torch
from torch import nn

from ebmeta.foundation.standardization import Exact, centred, check_resolution, standard, summary


def test_mean_and_deviation_keep_the_digits_of_large_numbers():
    x = 1.7e9 + torch.tensor([[0.0], [1.0], [2.0], [5.0]], dtype=torch.float64)  # seconds since 1970
    center, unit = summary(x, "time")
    assert center.item() == 1.7e9 + 2
    assert unit.item() == pytest.approx(3.5**0.5, rel=1e-12)
    assert standard(x, center, unit)[:, 0].tolist() == pytest.approx([v / 3.5**0.5 for v in (-2, -1, 0, 3)], rel=1e-12)


def test_very_small_numbers_have_a_deviation():
    x = 1e-200 * torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    assert summary(x, "charge")[1].item() == pytest.approx(1e-200)


def test_a_column_of_one_value_is_its_own_centre():
    x = torch.tensor([[0.1, 1.0], [0.1, 2.0], [0.1, 3.0]])
    mean, off = centred(x)
    assert not off[:, 0].any()
    assert mean[0].item() == x[0, 0].item()
    assert summary(x, "feature")[1].tolist()[0] == 1.0


def test_numbers_that_came_too_coarse_are_named():
    x = 1e6 + torch.tensor([[0.0], [0.125], [0.25]])
    with pytest.raises(ValueError, match=r"^feature 'depth': expected a spread of at least 1,000 roundings .* 32 bits"):
        summary(x, "feature", ["depth"])
    check_resolution("count", 1.0, 1e6 + torch.arange(3.0))  # whole numbers have no roundings


class Half(Exact):
    exact = ("center",)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("center", torch.tensor(1.7e9 + 1, dtype=torch.float64))
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))


def test_exact_buffers_keep_their_type_and_follow_to_a_device():
    module = nn.Sequential(Half()).float()
    assert module[0].weight.dtype == torch.float32
    assert module[0].center.dtype == torch.float64
    assert module[0].center.item() == 1.7e9 + 1
    assert module.to("meta")[0].center.device.type == "meta"
