"""Tasks: rows of arrays and frames, and the sources that draw batches of tasks from them."""

from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.episodes import EpisodeSampler, TaskSampler
from ebmeta.tasks.frames import FrameEncoder
from ebmeta.tasks.groups import GroupSampler
from ebmeta.tasks.mixed import MixedSampler

__all__ = ["EpisodeSampler", "FrameEncoder", "GroupSampler", "MixedSampler", "TaskBatch", "TaskSampler"]
