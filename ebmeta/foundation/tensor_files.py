"""Files of tensors in safetensors with a JSON header and a checksum over all of it, without pickle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes, save as to_bytes
from torch import Tensor, nn

from ebmeta.foundation.writing import Kind, to_json, write

__all__ = ["TensorFile", "checksum", "differing", "load_tensors", "read_tensors", "write_tensors"]

LARGEST_HEADER = 100_000_000  # bytes, as safetensors has it


@dataclass(frozen=True, eq=False)
class TensorFile:
    """The content of a file of tensors.

    Args:
        tensors: tensors by name.
        header: the facts that were written with them.
        checksum: checksum of both, or None in a file of the first format, which has none.
    """

    tensors: dict[str, Tensor]
    header: dict[str, Any]
    checksum: str | None


def checksum(tensors: Mapping[str, Tensor], header: Mapping[str, Any] | None = None) -> str:
    """Return the SHA-256 of names, types, shapes and bytes of tensors, and of facts, in hexadecimal."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any], kind: Kind, overwrite: bool = False
) -> None:
    """Write tensors and a JSON header to one file, whole or not at all.

    Args:
        path: the file; its folder is made where it does not exist.
        tensors: named tensors, on any device.
        header: JSON-serialisable facts.
        kind: what they are.
        overwrite: replace also a file that ebmeta did not write.

    Raises:
        OSError: if the file cannot be written, or may not be replaced.
    """
    plain: dict[str, Tensor] = {}
    stored: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        plain[name] = value.clone() if value.data_ptr() in stored else value  # the format refuses tied weights
        stored.add(value.data_ptr())
    text = to_json(header)
    metadata = {"ebmeta": kind, "header": text, "checksum": checksum(plain, json.loads(text))}
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, to_bytes(plain, metadata=metadata), kind, overwrite)


def read_tensors(path: Path, kind: Kind) -> TensorFile:
    """Read what `write_tensors` wrote, all after opening the file once.

    Raises:
        OSError: if the file does not exist or cannot be read.
        ValueError: if it is truncated, changed, or not such a file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a safetensors file, found none")
    try:
        with open(path, "rb") as file:
            metadata = _metadata(file.read(8), os.fstat(file.fileno()).st_size, file.read)
            header = json.loads(metadata["header"])
            if not isinstance(header, dict):
                raise ValueError("a header of another form")
            file.seek(0)
            tensors = from_bytes(file.read())
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, RecursionError) as error:
        raise ValueError(f"{path}: expected a complete safetensors file written by ebmeta, got: {error}") from None
    if (found := metadata.get("ebmeta", kind)) != kind:
        raise ValueError(f"{path}: expected a {kind}, got a {found!r:.40}")
    stored = metadata.get("checksum")
    if stored is not None and stored != checksum(tensors, header):
        raise ValueError(f"{path}: expected the tensors that were written, got others: the file was changed or damaged")
    return TensorFile(tensors, header, stored)


def _metadata(start: bytes, size: int, read: Any) -> dict[str, str]:
    """Read the text members of the header before memory of the stated size is taken."""
    length = int.from_bytes(start, "little")
    if not 2 <= length <= min(size - 8, LARGEST_HEADER):
        raise ValueError(f"a header of {length} bytes in a file of {size}")
    metadata = json.loads(read(length))["__metadata__"]
    return {str(k): str(v) for k, v in dict(metadata).items()}


def differing(wanted: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> str | None:
    """Name a tensor whose name, shape or type differs from what is wanted; None where all fit."""
    forms = [{k: (tuple(v.shape), v.is_floating_point()) for k, v in d.items()} for d in (wanted, got)]
    for name in sorted(forms[0].keys() | forms[1].keys()):
        one, other = (form.get(name) for form in forms)
        if one != other:
            shapes = [None if f is None else f[0] for f in (one, other)]
            if shapes[0] == shapes[1]:
                return f"expected {name} of {wanted[name].dtype}, got {got[name].dtype}"
            return f"expected {name} of shape {shapes[0]}, got {shapes[1]}"
    return None


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Copy tensors into a model, all or none.

    Raises:
        ValueError: if a name, a shape or a kind of number differs.
    """
    if difference := differing(model.state_dict(), tensors):
        raise ValueError(f"{source}: {difference}: another model")
    model.load_state_dict(tensors)
