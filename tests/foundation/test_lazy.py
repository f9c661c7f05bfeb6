"""A property that is worked out once."""

from __future__ import annotations

from ebmeta.foundation.lazy import lazy


class Room:
    """Counts how often its area is worked out."""

    def __init__(self, side: float) -> None:
        self.side, self.times = side, 0

    @lazy
    def area(self) -> float:
        """Area in square metres."""
        self.times += 1
        return self.side**2


def test_a_property_is_worked_out_once_for_each_object():
    small, large = Room(2.0), Room(3.0)
    assert small.times == 0
    assert [small.area, large.area, small.area] == [4.0, 9.0, 4.0]
    assert (small.times, large.times) == (1, 1)


def test_a_property_of_the_class_is_the_property():
    assert Room.area is vars(Room)["area"]
    assert Room.area.__doc__ == "Area in square metres."
