"""What a part does besides its tensors is compared value by value."""

from torch import nn

from ebmeta.model.settings import other_setting, settings


class Part(nn.Module):
    kind = "a"

    def __init__(self, **values):
        super().__init__()
        vars(self).update(values)


def test_sequences_and_mappings_count_by_what_they_hold():
    assert settings(Part(a=range(2), b={"x": [1, 2]})) == {"a": (0, 1), "b": {"x": (1, 2)}}
    assert other_setting(Part(a=(0, 1)), Part(a=range(2))) is None
    assert other_setting(Part(b={"x": [1]}), Part(b={"x": (2,)})) == "b to be {'x': (2,)}, got {'x': (1,)}"


def test_a_value_of_another_kind_or_none_is_another_setting():
    assert other_setting(Part(a=nn.ReLU), Part(a=1)) == "a to be 1, got a type"
    assert other_setting(Part(), Part(a=1)) == "a to be 1, got None"


def test_what_stands_before_the_class_counts_and_a_note_does_not():
    assert other_setting(Part(kind="b"), Part()) == "kind to be 'a', got 'b'"
    assert other_setting(Part(note="b"), Part()) is None
