"""Settings of the parts of a model: what they do besides their tensors and the classes that they are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

__all__ = ["other_setting", "settings"]

#: What torch gives every module.
COMMON = frozenset(vars(nn.Module()))
PLAIN = (bool, int, float, str, type(None))


def settings(part: nn.Module) -> dict[str, Any]:
    """Return the plain values of a part by name: numbers, texts, and sequences and mappings of them.

    Args:
        part: a module; those within it have their own.

    Examples:
        >>> from ebmeta.parts.prior import FullPrior
        >>> settings(FullPrior(2, varying=[1]))
        {'varying': (1,), 'num_covariates': 0}
    """
    return {k: _plain(v) for k, v in vars(part).items() if k not in COMMON and _is_plain(v)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_plain, (*value, *value.values())))
    return isinstance(value, PLAIN) or (isinstance(value, Sequence) and all(map(_is_plain, value)))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return tuple(map(_plain, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value


def other_setting(part: nn.Module, like: nn.Module) -> str | None:
    """Return the words for the first setting in which a part differs from one of its class; None for none.

    A value that neither the other part nor their class knows is a note of the user's own, and nothing depends on it.

    Args:
        part: a module.
        like: a module of the same class, with the settings that are expected.

    Examples:
        >>> from ebmeta.parts.initializer import ConjugateInitializer
        >>> other_setting(ConjugateInitializer(4), ConjugateInitializer(16))
        'num_steps to be 16, got 4'
    """
    here, there = settings(part), settings(like)
    for name in sorted(there.keys() | {k for k in here if hasattr(type(part), k)}):
        wanted = there[name] if name in there else getattr(like, name)
        if name not in here or here[name] != wanted:
            return f"{name} to be {_words(wanted)}, got {_words(getattr(part, name, None))}"
    return None


def _words(value: Any) -> str:
    return f"{_plain(value)!r:.60}" if _is_plain(value) else f"a {type(value).__name__}"
