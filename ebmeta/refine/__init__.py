"""Refinement: from the initializer's posterior to that which the unlabelled queries suggest."""

from ebmeta.refine.base import GradientRefiner, Refiner, Setting
from ebmeta.refine.mixture import MixtureRefiner, class_refiner
from ebmeta.refine.real_synthetic_gradient import RealSyntheticGradient
from ebmeta.refine.synthetic_gradient import (
    ClassSyntheticGradient,
    ExchangeableLinear,
    MLPSyntheticGradient,
    QueryState,
    Reading,
    SyntheticGradient,
)
from ebmeta.refine.temperature import TaskTemperature

__all__ = [
    "ClassSyntheticGradient",
    "ExchangeableLinear",
    "GradientRefiner",
    "MLPSyntheticGradient",
    "MixtureRefiner",
    "QueryState",
    "Reading",
    "RealSyntheticGradient",
    "Refiner",
    "Setting",
    "SyntheticGradient",
    "TaskTemperature",
    "class_refiner",
]
