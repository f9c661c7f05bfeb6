"""Packages that only a part of the library needs: an error says which extra brings one that is missing.

The package on the index is called `ebmeta-bayes`, because `ebmeta` is another one there. `EXTRAS` says which of its
extras brings what.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["DISTRIBUTION", "EXTRAS", "MissingPackageError", "need"]

#: Name of the package on the index; it is imported as `ebmeta`.
DISTRIBUTION = "ebmeta-bayes"

#: The extra that brings a package.
EXTRAS = {"jax": "numpyro", "numpyro": "numpyro", "pyarrow": "parquet", "distributed": "distributed"}


class MissingPackageError(ImportError):
    """A package that an extra brings is not installed."""


def need(module: str) -> Any:
    """Import a module of a package that an extra brings.

    Args:
        module: its full name.

    Returns:
        The module.

    Raises:
        MissingPackageError: if the package is not installed; the message says what to install.

    Examples:
        >>> need("json").dumps([1])  # of no extra: an import like any other
        '[1]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:  # it is there, and lacks something else
            raise
        raise MissingPackageError(
            f'{error.name}: expected the package, found none; pip install "{DISTRIBUTION}[{EXTRAS[error.name]}]"',
            name=error.name,
        ) from None
