"""Numerical checks of theory/certificate.md: lower bounds of scores on new classes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from equations import checks
from scipy import stats

from ebmeta.prediction.certificate import BETS, lower_bound
from ebmeta.prediction.class_jackknife import class_half_width
from tests.theory.test_calibration import close

#: A world of four kinds of classes, with their probabilities, and scores of pairs of them.
KINDS = np.array([0.1, 0.3, 0.4, 0.2])
SCORES = np.array([[0.2, 0.5, 0.1, 0.3], [0.5, 0.9, 0.8, 0.4], [0.1, 0.8, 1.0, 0.7], [0.3, 0.4, 0.7, 0.0]])
MEAN = float(KINDS @ SCORES @ KINDS)


def pools(n: int) -> list[tuple[tuple[int, ...], float]]:
    """Every pool of n classes, with its probability."""
    return [(pool, float(np.prod(KINDS[list(pool)]))) for pool in itertools.product(range(4), repeat=n)]


def blocks(pool: tuple[int, ...]) -> np.ndarray:
    """Scores of the blocks of all partitions of a pool into pairs."""
    orders = set(itertools.permutations(range(len(pool))))
    return np.array([[SCORES[pool[o[i]], pool[o[i + 1]]] for i in range(0, len(o) - 1, 2)] for o in sorted(orders)])


@checks("eq-block-product")
def test_the_mean_of_a_product_over_disjoint_blocks() -> None:
    total, wrong = 0.0, 0.0
    for pool, mass in pools(4):
        scores = blocks(pool)
        total += mass * scores.prod(1).mean()
        wrong += mass * scores[0, 0] * SCORES[pool[1], pool[2]]  # blocks that share a class
        if (product := scores.prod(1).mean()) > 0:
            close(lower_bound(scores, 0.3) ** 2, 0.7 * product)
    close(total, MEAN**2)
    assert abs(wrong - MEAN**2) > 0.01


@checks("eq-certificate")
def test_the_bound_holds_as_often_as_it_says() -> None:
    for confidence in (0.3, 0.5, 0.6, 0.9):
        above = sum(mass for pool, mass in pools(5) if lower_bound(blocks(pool), confidence) > MEAN + 1e-12)
        assert above <= 1 - confidence
    # Markov's inequality is an equality for a product of two values, 0 and the largest.
    share = 0.6
    assert (
        lower_bound(np.ones((1, 2)), 1 - share**2 + 1e-9) <= share < lower_bound(np.ones((1, 2)), 1 - share**2 - 1e-9)
    )


@checks("eq-certificate-limit")
def test_no_bound_does_better_where_all_tasks_score_alike() -> None:
    for score, ways, n in ((0.77, 5, 35), (0.5, 2, 60), (1.0, 3, 12)):
        limit = score * 0.05 ** (ways / n)
        close(lower_bound(np.full((3, n // ways), score)), limit)
        # A world of bad classes with hardly a larger mean, which looks alike in more than one of 20 pools.
        bad = 1 - (0.05 * (1 + 1e-6)) ** (1 / n)
        assert limit < score * (1 - bad) ** ways < limit * (1 + 1e-5)
        assert (1 - bad) ** n > 0.05


@checks("eq-certificate-bets")
def test_bets_on_groups_have_mean_one() -> None:
    values, mass = np.array([0.0, 0.3, 0.8, 1.0]), np.array([0.1, 0.2, 0.3, 0.4])
    mean, theta = float(values @ mass), np.array(BETS)
    won = 0.0
    for outcome in itertools.product(range(4), repeat=3):
        a = values[list(outcome)]
        won += mass[list(outcome)].prod() * np.prod(1 - theta[:, None] + theta[:, None] * a / mean, 1).mean()
        bound = lower_bound(a[None], 0.8, BETS[1:])
        if 0 < bound < 1:  # it is where five times has been won
            close(np.prod(1 - theta[:, None] + theta[:, None] * a / bound, 1).mean(), 5, tol=1e-6)
    close(won, 1)
    above = sum(
        mass[list(o)].prod()
        for o in itertools.product(range(4), repeat=5)
        if lower_bound(values[list(o)][None], 0.8, BETS[1:]) > mean
    )
    assert above <= 0.2


@checks("eq-prequential")
def test_models_that_learn_from_block_to_block() -> None:
    # The model after each block scores 0.3 on average, or 0.6 where it has done well on the last.
    outcomes, won, wrong = [(0.0, 0.5), (1.0, 0.5)], 0.0, 0.0
    for shape in itertools.product(outcomes, repeat=4):
        level, mass, scores, means = 0.3, 1.0, [], []
        for high, half in shape:
            means.append(level)
            scores.append(level * (1.4 if high else 0.6))
            mass *= half
            level = 0.6 if high else 0.3
        won += mass * np.prod(scores) / np.prod(means)
        bound = lower_bound(np.array([scores]), 0.6)
        close(bound, (0.4 * np.prod(scores)) ** (1 / 4))
        geometric = math.prod(means) ** (1 / 4)
        assert geometric <= np.mean(means) + 1e-12
        wrong += mass * (bound > geometric)
    close(won, 1)
    assert wrong <= 0.4


@checks("eq-class-jackknife")
def test_the_jackknife_over_classes_has_the_variance_or_more() -> None:
    pairs = np.array(list(itertools.combinations(range(5), 2)))
    tasks = np.tile(pairs, (2000, 1))  # so many that the noise of the tasks drawn is nothing
    quantile, additive = stats.t.ppf(0.975, 4), np.add.outer(SCORES[0], SCORES[0]) / 2
    for scores, exact in ((additive, True), (SCORES, False)):
        mass = np.array([m for _, m in pools(5)])
        values = np.array([scores[np.array(pool)[pairs[:, 0]], np.array(pool)[pairs[:, 1]]] for pool, _ in pools(5)])
        means = values.mean(1)
        wanted = mass @ means**2 - (mass @ means) ** 2
        half = np.array([class_half_width(row, tasks) for row in np.tile(values, (1, 2000))])
        found = mass @ (half / quantile) ** 2
        assert found == pytest.approx(wanted, rel=1e-3) if exact else wanted < found < 1.5 * wanted
    # Few tasks: term by term.
    a, few = np.array([0.2, 0.9, 0.4, 0.7]), np.array([[0, 1], [1, 2], [0, 2], [3, 1]])
    without = [np.array([0.9, 0.7]), np.array([0.4]), np.array([0.2, 0.7]), np.array([0.2, 0.9, 0.4])]
    jackknife = 3 / 4 * (np.var([w.mean() for w in without]) * 4)
    noise = 3 / 4 * a.var(ddof=1) * sum(1 / len(w) - 1 / 4 for w in without)
    variance = max(jackknife - noise, 0) + a.var(ddof=1) / 4
    close(class_half_width(a, few), stats.t.ppf(0.975, 3) * np.sqrt(variance))


@checks("eq-pac-bayes")
def test_what_is_learned_costs_more_than_there_is() -> None:
    slack = [math.sqrt((kl + math.log(2 * math.sqrt(12) / 0.05)) / 24) for kl in (0, 5, 50)]
    assert slack == pytest.approx([0.453, 0.643, 1.512], abs=1e-3)
    assert max(0.0, 0.77 - slack[0]) < lower_bound(np.full((1, 12), 0.77)) - 0.25
