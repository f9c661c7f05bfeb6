"""A wide residual network trained with rotations and manifold mixup, and its features.

The recipe is that of Mangla et al. (2020), "Charting the right manifold: manifold mixup for few-shot
learning" (S2M2_R), without dropout and shortened to less than ten minutes of one GPU.
"""

from lib.wide_resnet.features import extract
from lib.wide_resnet.images import FILES, augment, missing, read, rotate
from lib.wide_resnet.network import Mixup, WideResNet
from lib.wide_resnet.train import Schedule, Training

__all__ = ["FILES", "Mixup", "Schedule", "Training", "WideResNet", "augment", "extract", "missing", "read", "rotate"]
