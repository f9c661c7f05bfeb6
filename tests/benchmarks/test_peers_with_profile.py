"""Settings of peers are chosen by the kinds of task that they serve, and pieces are kept one by one."""

from __future__ import annotations

import json

import pytest
import torch

import lib.common
import peers_with_profile as script
from lib.kinds import FIVE
from lib.peers import METHODS, make

#: Accuracies of two settings on the four kinds: 1-shot balanced and not, then 5-shot.
RIGHT = {1.0: [0.8, 0.5, 0.9, 0.6], 2.0: [0.75, 0.7, 0.75, 0.65]}


class Fake:
    """Features whose tasks are told by their kind alone."""

    name = "fake"
    base = (torch.zeros(2), torch.eye(2))

    def draw(self, kind, split, num_tasks, seed):
        return [kind]


@pytest.fixture
def two_settings(monkeypatch):
    def guesses(peer, batches):
        right = RIGHT[peer["temperature"]][FIVE.index(batches[0])]
        return (torch.arange(100) >= 100 * right).long().expand(2, 100)

    monkeypatch.setattr(script, "GRIDS", {"tim": {"temperature": [1.0, 2.0]}})
    monkeypatch.setattr(script, "make", lambda name, setting, center, scatter, **more: more)
    monkeypatch.setattr(script, "guesses", guesses)
    monkeypatch.setattr(script, "labels", lambda batches: torch.zeros(2, 100, dtype=torch.long))


def test_the_best_setting_of_each_group_of_kinds(two_settings):
    first, second = {"temperature": 1.0}, {"temperature": 2.0}
    chosen = script.search("tim", Fake())
    assert chosen == {"balanced": first, "imbalanced": second, "single": second}
    scores = script.score("tim", chosen, Fake(), "test")
    values = {scope: [scores[scope][kind.name][0] for kind in FIVE] for scope in scores}
    assert values["tuned"] == pytest.approx([80, 70, 90, 65])
    assert values["single"] == pytest.approx([75, 70, 75, 65])


def test_methods_without_a_grid_have_nothing_to_choose():
    assert script.search("prototypes", Fake()) == {"balanced": {}, "imbalanced": {}, "single": {}}
    assert script.search("unem", Fake()) == {kind.name: {} for kind in FIVE} | {"single": {}}


@pytest.mark.parametrize("name", METHODS)
def test_every_kind_has_one_tuned_peer_and_the_single_one(name):
    groups = script.groups(name)
    assert groups["single"] == FIVE
    assert sorted(kind.name for group in groups if group != "single" for kind in groups[group]) == sorted(
        kind.name for kind in FIVE
    )
    assert METHODS[name].learns == (name in script.LEARNED)


@pytest.mark.parametrize("name", script.GRIDS)
@pytest.mark.parametrize("regime", ["balanced", "imbalanced"])
def test_a_grid_holds_the_settings_of_the_registry(name, regime):
    peer = make(name, regime, *Fake.base)
    for parameter, values in script.GRIDS[name].items():
        assert getattr(peer, parameter) in values


def test_pieces_join_those_of_others(monkeypatch, tmp_path):
    monkeypatch.setattr(lib.common, "RESULTS", tmp_path)
    script.keep("tim", "as_they_are", "val", value=1)
    script.keep("tim", "of_ebmeta", "val", value=2)
    script.keep("ebmeta", "val", value=3)
    stored = json.loads((tmp_path / script.NAME).read_text())
    assert stored["tim"] == {"as_they_are": {"val": 1}, "of_ebmeta": {"val": 2}}
    assert stored["ebmeta"] == {"val": 3}
    assert (stored["val_tasks"], stored["test_tasks"]) == (600, 2000)
