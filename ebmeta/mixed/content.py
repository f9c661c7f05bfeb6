"""What a folder says of a fitted mixed model, and its tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebmeta.formula.design import Design
from ebmeta.formula.stored_columns import pack_frame, pack_index
from ebmeta.mixed.propagation import Draws
from ebmeta.random_effects.ascent import Optimum
from ebmeta.random_effects.engine import Engine

__all__ = ["KIND", "content_of"]

KIND = "mixed"  # of a saved model


def content_of(
    design: Design, engine: Engine, optimum: Optimum, name: str, draws: Draws | None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return facts and tensors that make the same fit again.

    Args:
        design: what columns became.
        engine: the criterion.
        optimum: where its maximum is.
        name: of the likelihood.
        draws: of the parameters, or None.

    Raises:
        ValueError: if a column holds neither numbers, texts, categories nor times.
    """
    columns, tensors = pack_frame(design.used, "columns.")
    index, more = pack_index(design.index, "index.")
    arrays = {f"extra.{column}": design.extra[column].to_numpy(dtype=float) for column in design.extra}
    arrays |= {f"state.{part}": value for part, value in engine.state(optimum.at).items()} | {"at": optimum.at}
    arrays |= {} if draws is None else {"draws.at": draws.at, "draws.weight": draws.weight}
    config = {
        "kind": KIND,
        "formula": design.text,
        "likelihood": name,
        "reml": engine.reml,
        "hyperprior": engine.hyperprior,
        "na": design.na,
        "given": {part: v if v is None or isinstance(v, str) else True for part, v in design.given._asdict().items()},
        "counts": [design.num_rows, design.num_dropped, design.num_unlabelled],
        "columns": columns,
        "index": index,
        "optimum": {part: v for part, v in optimum._asdict().items() if part != "at"},
        "draws": draws is not None,
    }
    return config, tensors | more | {part: torch.from_numpy(np.array(v)) for part, v in arrays.items()}
