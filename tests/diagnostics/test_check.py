"""Statuses of checks: the gravest counts, and an interval is judged by both of its ends."""

import pytest

from ebmeta.diagnostics.check import ORDER, Check, interval, worst


def test_the_gravest_status_counts():
    checks = [Check(status, "?", status, "", "") for status in ORDER]
    for last in range(1, 5):
        assert worst(checks[:last]) == worst(checks[:last][::-1]) == ORDER[last - 1]
    assert worst([]) == "good"


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("low", "high", "status"),
    [
        (0.0, 0.03, "good"),
        (0.03, 0.08, "good"),  # may be near
        (0.031, 0.2, "caution"),
        (0.029, 0.081, "unclear"),
        (-0.09, 0.01, "unclear"),
        (0.081, 0.2, "bad"),
    ],
)
def test_an_interval_is_judged_the_same_on_both_sides_of_zero(low, high, status, sign):
    assert interval(*sorted((sign * low, sign * high)), 0.03, 0.08) == status
