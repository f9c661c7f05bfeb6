"""Predictions of more groups than one process, one machine or one sitting holds: a stream of frames in and out."""

from ebmeta.scoring.batches import score_batches
from ebmeta.scoring.parts import score_parts

__all__ = ["score_batches", "score_parts"]
