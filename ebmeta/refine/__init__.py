"""Refinement of the initializer's posterior on the unlabelled queries."""

from ebmeta.refine.base import Iterate, Refiner, SyntheticGradient
from ebmeta.refine.belief import BeliefRefiner
from ebmeta.refine.class_synthetic_gradient import ClassSyntheticGradient, Reading
from ebmeta.refine.exchangeable import ExchangeableLinear
from ebmeta.refine.gradient import GradientRefiner
from ebmeta.refine.mixture import MixtureRefiner
from ebmeta.refine.mlp_synthetic_gradient import MLPSyntheticGradient
from ebmeta.refine.real_synthetic_gradient import RealSyntheticGradient
from ebmeta.refine.state import QueryState, Setting
from ebmeta.refine.temperature import TaskTemperature

__all__ = [
    "BeliefRefiner",
    "ClassSyntheticGradient",
    "ExchangeableLinear",
    "GradientRefiner",
    "Iterate",
    "MLPSyntheticGradient",
    "MixtureRefiner",
    "QueryState",
    "Reading",
    "RealSyntheticGradient",
    "Refiner",
    "Setting",
    "SyntheticGradient",
    "TaskTemperature",
]
