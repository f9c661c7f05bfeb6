"""Which rows are one: rounding and units do not count, and what is unlike is not merged, however it is laid out."""

import numpy as np
import pytest

from ebmeta.tasks.alike import alike

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(300, 24))


@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize("unit", [1.0, 1e-12 * 10.0 ** np.arange(24)])
def test_rows_in_fewer_bits_are_the_same_in_any_units(kind, unit):
    stored = (ROWS * unit if kind is np.float32 else ROWS).astype(kind)
    own, other = alike(ROWS * unit if kind is np.float32 else ROWS, stored[::-1])
    assert own.tolist() == list(range(300))
    assert other.tolist() == own[::-1].tolist()


@pytest.mark.parametrize(
    "rows",
    [
        ROWS + 1e4,
        np.where(RNG.random((300, 24)) < 0.9, 0.0, ROWS),  # most of a column is zero
        np.concatenate([ROWS, np.full((1, 24), 1e12)]),  # one row far out
        np.stack([1.7e9 + 60.0 * np.arange(300), np.arange(300) % 7], 1),  # minutes of a clock
        RNG.integers(0, 3, (300, 6)),
        np.linspace(0, 1, 1000)[:, None],
        np.array([[0.0], [1e144], [1e149], [-1e149]]),
        np.zeros((5, 3)),
        np.zeros((3, 0)),
        np.zeros((0, 4)),
    ],
)
def test_unlike_rows_are_never_one(rows):
    (found,) = alike(rows)
    _, expected = np.unique(rows, axis=0, return_inverse=True)
    assert len(found) == len(rows)
    assert len(set(zip(found.tolist(), expected.ravel().tolist(), strict=True))) == len(set(found.tolist()))
    assert len(set(found.tolist())) == len(set(expected.ravel().tolist()))


def test_how_near_rows_have_to_be_follows_their_width():
    """Halved and doubled, the distance of the formula parts what is one from what is not."""
    for width, apart in ((1, 1e-6), (2, 1e-3), (24, 1e-3)):
        rows = np.stack([np.linspace(-16, 16, 101)] * width, 1)  # in every column the median distance is 8
        rows = np.concatenate([rows, rows[-1:] + 8 * apart / 2, rows[:1] - 8 * apart * 2])
        (found,) = alike(rows)
        assert found[101] == found[100]
        assert found[102] != found[0]
        assert len(set(found.tolist())) == 102


def test_columns_that_are_constant_do_not_make_rows_alike():
    rows = np.sort(RNG.normal(size=(300, 1)), 0)
    (found,) = alike(np.pad(rows, ((0, 0), (0, 20)), constant_values=7.0))
    assert len(set(found.tolist())) == 300


def test_many_noisy_copies_are_one_each_wherever_they_stand():
    """As all pairs say: runs of copies are joined at once, and rows between them are not lost."""
    at = RNG.integers(0, 6, 500)
    rows = np.concatenate([ROWS[at] + 1e-7 * RNG.normal(size=(500, 24)), ROWS[6:]])[RNG.permutation(794)]
    (found,) = alike(rows)
    apart = np.linalg.norm(rows[:, None] - rows, axis=2)
    np.testing.assert_array_equal(found[:, None] == found, apart < 1e-3)
