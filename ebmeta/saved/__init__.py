"""One reader for folders of models of every kind."""

from ebmeta.saved.loading import load

__all__ = ["load"]
