"""The share that is run is what was asked for, and all of it where all was asked for."""

from __future__ import annotations

import scale


def test_a_share_is_a_fixed_part_in_order(monkeypatch):
    monkeypatch.setattr(scale, "SCALE", 0.1)
    assert len(scale.share(range(400))) == 40
    assert scale.share(range(400)) == sorted(scale.share(range(400)))
    assert scale.share(range(400), seed=1) != scale.share(range(400), seed=2)
    assert len(scale.share(range(5))) == 1


def test_the_whole_is_everything(monkeypatch):
    monkeypatch.setattr(scale, "SCALE", 1.0)
    assert scale.share(range(400)) == list(range(400))
