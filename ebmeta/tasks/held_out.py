"""Whether validation shows other groups or classes than training, judged by group labels and by rows of classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from ebmeta.foundation.memory_maps import take
from ebmeta.tasks.classes import ClassRows
from ebmeta.tasks.source import TaskSource

__all__ = ["check_classes", "check_shared_groups", "distinct_rows", "separate_classes"]

ALL = 1 << 28  # bytes of the rows of a source that are all read; of larger ones, the first few of each class
FEW = 8
BITS = 24  # of a number that count: a copy in 32 bits is of the same rows
SHARE = 0.5  # of the rows of a class, beyond which it is the class that they are found in


def check_classes(tasks: TaskSource, validation: TaskSource | None, name: str = "validation") -> list[str]:
    """Refuse validation classes whose rows are those of a training class; return what to say of names that both have.

    Classes are often numbered anew in each file, so that equal numbers say nothing. A row counts where training has it
    in one class alone: where features have few values, other classes have the same rows too.

    Args:
        tasks: source of training tasks.
        validation: source of validation tasks.
        name: how messages call it.

    Raises:
        ValueError: if a class is in both.

    Examples:
        >>> from ebmeta.tasks.episodes import EpisodeSampler
        >>> X, y = np.arange(24.0).reshape(12, 2), np.repeat([0, 1, 2, 3], 3)
        >>> train, other = (EpisodeSampler(x, y[:6], 2, 1, 2) for x in (X[:6], X[6:]))
        >>> check_classes(train, other)
        []
        >>> check_classes(train, EpisodeSampler(X[3:9], y[:6], 2, 1, 2))
        Traceback (most recent call last):
        ...
        ValueError: validation: expected classes that training does not have, got the rows of its class 0 in class 1 \
of training
    """
    known, new = tasks.class_rows, () if validation is None else validation.class_rows
    if not (known and new):
        return []
    owner: dict[bytes, tuple[int, int]] = {}
    for which, source in enumerate(known):
        for code, rows in distinct_rows(source):
            for row in rows:
                if owner.setdefault(row, (which, code)) != (which, code):
                    owner[row] = (-1, -1)  # of several classes
    for source in new:
        for code, rows in distinct_rows(source):
            found = Counter(owner[row] for row in rows if owner.get(row, (-1, -1))[0] >= 0)
            (which, of), count = (found.most_common(1) or [((0, 0), 0)])[0]
            if count > SHARE * len(rows):
                raise ValueError(
                    f"{name}: expected classes that training does not have, got the rows of its class "
                    f"{source.classes[code].item()!r} in class {known[which].classes[of].item()!r} of training"
                )
    names = set.intersection(
        *({n for s in side for n in s.classes.tolist() if isinstance(n, str)} for side in (known, new))
    )
    if not names:
        return []
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return [f"{name}: training has a class {min(names)!r}{more} too; expected other classes"]


def check_shared_groups(tasks: TaskSource, validation: TaskSource | None, name: str = "validation") -> None:
    """Raise `ValueError` where training and validation have groups of one label; arguments as of `check_classes`."""
    if tasks.groups is None or validation is None or validation.groups is None:
        return
    known = set(tasks.groups)
    if shared := [g for g in validation.groups if g in known]:
        more = f" (and {len(shared) - 1} more)" if len(shared) > 1 else ""
        raise ValueError(
            f"{name}: expected groups that training does not have, got {shared[0]!r}{more} in both; number "
            "groups alike only where they are the same"
        )


def separate_classes(sources: Sequence[ClassRows]) -> list[tuple[ClassRows, int]]:
    """Return each class of some sources once, as its source and its number there.

    Classes of two sources are one where most rows of either are rows of the other.

    Examples:
        >>> from ebmeta.tasks.episodes import EpisodeSampler
        >>> X, y = np.arange(24.0).reshape(12, 2), np.repeat([0, 1, 2, 3], 3)
        >>> rows = [EpisodeSampler(X[s], y[s], 2, 1, 2).class_rows[0] for s in (slice(9), slice(3, 12))]
        >>> [(rows.index(of), code) for of, code in separate_classes(rows)]
        [(0, 0), (0, 1), (0, 2), (1, 2)]
    """
    if len(sources) == 1:
        return [(sources[0], code) for code in range(len(sources[0].members))]
    owner: dict[bytes, int] = {}  # of rows that one class alone has; -1 for those of several
    found: list[tuple[ClassRows, int]] = []
    sizes: list[int] = []
    for source in sources:
        new: list[tuple[int, set[bytes]]] = []
        for code, rows in distinct_rows(source):
            held = Counter(owner[row] for row in rows if owner.get(row, -1) >= 0)
            if not any(count > SHARE * min(len(rows), sizes[number]) for number, count in held.items()):
                new.append((len(found), rows))
                found.append((source, code))
                sizes.append(len(rows))
        for number, rows in new:
            for row in rows:
                owner[row] = number if owner.get(row, number) == number else -1
    return found


def distinct_rows(source: ClassRows) -> Iterator[tuple[int, set[bytes]]]:
    """Yield the code of each class and its distinct rows, to the digits that 32-bit floats have."""
    everything = source.X.nbytes <= ALL
    for code, members in enumerate(source.members):
        rows = np.asarray(take(source.X, members if everything else members[:FEW]), dtype=np.float64)
        digits, power = np.frexp(rows)
        rows = np.ldexp(np.rint(digits * 2.0**BITS), power - BITS)
        yield code, {row.tobytes() for row in rows + 0.0}  # of minus zero too
