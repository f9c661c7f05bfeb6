"""Ways in which files are damaged, lost, exchanged or edited, each drawn from a random generator."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import torch
from safetensors.torch import load as from_bytes, save as to_bytes

__all__ = ["damaged", "edited", "retensored"]

VALUES: list[Any] = ["3", "", -1, 0, 1, 2, 10**9, 10**30, 0.5, float("nan"), float("inf"), None, True, [], {}, [[1]]]
VALUES += [{"a": 1}, "é\n"]


def damaged(content: bytes, other: bytes, rng: Random) -> bytes:
    """Return bytes with some flipped, cut, added or overwritten, or those of another file."""
    changed, at, size = bytearray(content), rng.randrange(len(content)), rng.randrange(1, 64)
    how = rng.choice(["bit", "bits", "cut", "more", "twice", "zeros", "noise", "empty", "other", "length"])
    if how in ("bit", "bits"):
        for _ in range(1 if how == "bit" else 20):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    elif how in ("zeros", "noise"):
        changed[at : at + size] = bytes(size) if how == "zeros" else rng.randbytes(size)
    elif how == "length":  # where a file of tensors says how long its header is
        changed[:8] = rng.choice([0, 2, len(changed), 2**40, 2**63, 2**64 - 1]).to_bytes(8, "little")
    elif how in ("more", "twice"):
        return content + (rng.randbytes(size) if how == "more" else content)
    else:
        return {"cut": content[:at], "empty": b"", "other": other}[how]
    return bytes(changed)


def leaves(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the places of all values within JSON."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*([place] if place else []), *(p for k, v in inner for p in leaves(v, (*place, k)))]


def edited(text: bytes, rng: Random) -> bytes:
    """Return JSON with one value replaced, removed, or under another name."""
    stored = json.loads(text)
    *way, last = rng.choice(leaves(stored))
    inside, how = stored, rng.choice(["value", "value", "removed", "moved"])
    for step in way:
        inside = inside[step]
    if how == "value":
        inside[last] = rng.choice(VALUES)
    elif how == "removed":
        del inside[last]
    elif isinstance(inside, dict):
        inside[f"{last}{rng.choice(['', '_', 'x'])}"] = inside.pop(last)
    else:
        inside.reverse()
    return json.dumps(stored, indent=rng.choice([None, 2])).encode()


def retensored(content: bytes, rng: Random) -> bytes:
    """Return a file of tensors with one of them changed, well-formed and with the header of before."""
    tensors = from_bytes(content)
    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    name = rng.choice(sorted(tensors))
    value = tensors[name]
    how = rng.choice(["nan", "drop", "rename", "dtype", "shape", "swap", "scale", "bare", "unmarked"])
    if how == "nan" and value.is_floating_point():
        value.reshape(-1)[rng.randrange(value.numel())] = float("nan")
    elif how == "drop":
        del tensors[name]
    elif how == "rename":
        tensors[name + "_"] = tensors.pop(name)
    elif how == "dtype":
        tensors[name] = value.to(rng.choice([torch.float16, torch.float32, torch.float64, torch.int64]))
    elif how == "shape":
        tensors[name] = value.reshape(1, *value.shape)
    elif how == "swap":
        other = rng.choice(sorted(k for k in tensors if tensors[k].shape == value.shape))
        tensors[name], tensors[other] = tensors[other].clone(), value.clone()
    elif how == "scale":
        tensors[name] = value * (1 + 1e-6) if value.is_floating_point() else value + 1
    metadata = {"bare": None, "unmarked": {"header": metadata["header"]}}.get(how, metadata)
    return to_bytes(tensors, metadata=metadata)
