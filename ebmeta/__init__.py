"""Probabilistic empirical Bayes across many small tasks.

A learned prior, an amortized posterior, and refinement of that posterior on unlabelled queries: one
hierarchical Pyro model for classification and regression from a handful of labels.

The names are listed in `__init__.pyi`, and each is imported when it is first asked for.
"""

from typing import Any

import lazy_loader

_attached, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"
__all__ += ["__version__"]


def __getattr__(name: str) -> Any:
    """Return a public name, loaded at its first use; the error of another one says where that is."""
    try:
        return _attached(name)
    except AttributeError:
        if name in __all__:
            raise
        from ebmeta.foundation.whereabouts import ElsewhereError

        raise ElsewhereError(f"module {__name__!r} has no attribute {name!r}", name) from None
