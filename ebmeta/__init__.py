"""Probabilistic empirical Bayes across many small tasks.

A learned prior, an amortized posterior, and refinement of that posterior on unlabelled queries: one
hierarchical Pyro model for classification and regression from a handful of labels.

The names are listed in `__init__.pyi`, and each is imported when it is first asked for.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"
__all__ += ["__version__"]
