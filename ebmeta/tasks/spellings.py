"""Names that are the same but for how they are written: they count as two, and a warning says so.

Such names differ in white space, in the case of letters or in the form of Unicode, as `Site` and `site `. Whole numbers
in texts differ in zeros, as `031` and `31.0`.
"""

from __future__ import annotations

import datetime
import re
import unicodedata
from collections.abc import Callable, Collection, Hashable, Iterable
from typing import Any

import pandas as pd

from ebmeta.foundation.telling import tell

__all__ = ["near", "tell_of_near", "tell_of_twins"]

WHOLE = re.compile(r"0*(\d+)(?:\.0*)?")
DATE = re.compile(r"\d[-/.]\d")  # in any date: to read one takes long
DIGITS = 6  # of a number that is not whole: 32-bit floats keep so many


def tell_of_twins(labels: Iterable[Any], name: str, things: str) -> None:
    """Warn of distinct labels that differ in white space, the case of letters, zeros or the form of Unicode alone.

    Single letters of both cases are usual names, as those of handwriting.

    Args:
        labels: distinct labels, of which texts are looked at.
        name: how a message calls them.
        things: what they name.
    """
    known: dict[Hashable, str] = {}
    for label in labels:
        if not isinstance(label, str):
            continue
        word = _word(label)
        if (other := known.setdefault(_meant(label) if len(word) > 1 else word, label)) != label:
            alone = "white space, the case of letters, zeros or the form of Unicode"
            told = f"{name}: {other!r} and {label!r} differ in {alone} alone, and count as two {things}"
            tell(told)
            return


def near(names: Iterable[Any], known: Collection[Any]) -> list[tuple[Any, Any]]:
    """Return pairs of a name that is not known, and a known one that is the same but for how it is written.

    Where no name is known and no pair is found, dates are compared too.

    Args:
        names: names of new rows.
        known: distinct names.

    Examples:
        >>> near(["Anna ", "031", "Bo", "1.5"], ["anna", "Bo", 31, "15"])
        [('Anna ', 'anna'), ('031', 31)]
        >>> near(["2026-01-10"], [pd.Timestamp("2026-01-10")])
        [('2026-01-10', Timestamp('2026-01-10 00:00:00'))]
    """
    given, held = dict.fromkeys(names), set(known)
    fresh = [name for name in given if name not in held]

    def pairs(meaning: Callable[[Any], Hashable]) -> list[tuple[Any, Any]]:
        meant = {value: name for name in known if (value := meaning(name)) is not None} if fresh else {}
        return [(name, meant[value]) for name in fresh if (value := meaning(name)) in meant]

    return pairs(_meant) or (pairs(_time) if len(fresh) == len(given) else [])


def tell_of_near(names: Iterable[Any], known: Collection[Any], name: str, things: str) -> None:
    """Warn of names that are known ones but for how they are written; arguments as of `near` and `tell_of_twins`.

    Examples:
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as told:
        ...     warnings.simplefilter("always")
        ...     tell_of_near(["Anna ", "BO"], ["anna", "bo"], "rows", "groups")
        >>> print(told[0].message)
        rows: 'Anna ' (and 1 more) counts as new, and differs from 'anna' of the known groups in writing alone
    """
    if pairs := near(names, known):
        (new, old), more = pairs[0], f" (and {len(pairs) - 1} more)" if len(pairs) > 1 else ""
        told = f"{name}: {new!r}{more} counts as new, and differs from {old!r} of the known {things} in writing alone"
        tell(told)


def _word(text: str) -> str:
    """Return a text in one form of Unicode, without marks of format and with single blanks."""
    if not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")
    return " ".join(text.split())


def _meant(name: Any) -> Hashable:
    """Return what a name is, however it is written; None where it is a name of its own."""
    if isinstance(name, str):
        word = _word(name)
        number = WHOLE.fullmatch(word)
        return word.casefold() if number is None else number[1]
    if isinstance(name, float):
        return str(int(name)) if name.is_integer() else f"{name:.{DIGITS}g}"
    return str(name) if isinstance(name, int) else None


def _time(name: Any) -> pd.Timestamp | None:
    if not (DATE.search(name) if isinstance(name, str) else isinstance(name, datetime.date)):
        return None
    try:
        return pd.Timestamp(name).tz_localize(None)
    except (ValueError, TypeError):
        return None
