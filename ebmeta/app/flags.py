"""How the command line says what tasks the rows of a file make; it loads nothing else."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Tasks"]


@dataclass(frozen=True)
class Tasks:
    """How rows become tasks.

    Args:
        label: name of the label column or array.
        groups: name of the group column or array: labels are numbers, one task per group. Without it, labels
            are classes.
        size: with groups, column of trials, exposure or readings of each row.
        features: columns of features, such as price,kind; all others by default. With groups, numbers or texts.
        exclude: columns that are no features, such as note,id.
        group_features: with groups, columns of covariates of the group, such as area,city.
        n_way: classes per task, a number or a range such as 2:10; 5 by default.
        n_shot: labelled rows per class, a number or a range; 1 by default. With groups, labelled rows
            per group; 3 by default, and a range from 0, such as 0:3, takes groups of any size.
        n_query: queries per class, 15 by default; per task, with imbalance. With groups, the largest
            number of queries; all remaining rows by default.
        imbalance: Dirichlet concentration of the query classes; balanced without it.
    """

    label: str = "y"
    groups: str | None = None
    size: str | None = None
    features: str | None = None
    exclude: str | None = None
    group_features: str | None = None
    n_way: str | None = None
    n_shot: str | None = None
    n_query: str | None = None
    imbalance: float | None = None
