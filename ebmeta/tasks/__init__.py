"""Rows of arrays and frames, and the sources that draw batches of tasks from them."""

from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.episodes import EpisodeSampler
from ebmeta.tasks.frames import FrameEncoder
from ebmeta.tasks.groups import GroupSampler
from ebmeta.tasks.mixed import MixedSampler
from ebmeta.tasks.source import FixedTasks, TaskSampler, TaskSource

__all__ = [
    "EpisodeSampler",
    "FixedTasks",
    "FrameEncoder",
    "GroupSampler",
    "MixedSampler",
    "TaskBatch",
    "TaskSampler",
    "TaskSource",
]
