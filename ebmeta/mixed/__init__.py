"""Mixed models: a formula and a data frame in, tables, predictions and a fitted prior out."""

from ebmeta.mixed.fit import mixed_model
from ebmeta.mixed.result import MixedModel

__all__ = ["MixedModel", "mixed_model"]
