"""Networks without backpropagation: what a gradient costs, the cheapest way to it, and a training loop."""

from zograd.nn._backward import backward, plan
from zograd.nn._files import read_cifar10, read_idx, read_jpegs, read_mnist
from zograd.nn._layer_steps import LayerStep, LayerSteps, layer_steps
from zograd.nn._masks import Active, ImportanceMasks, Masks, RandomMasks
from zograd.nn._opaque import Opaque
from zograd.nn._plan import Plan
from zograd.nn._scores import grasp_scores, layer_ratios, magnitude_scores
from zograd.nn._seeded_descent import SeededDescent
from zograd.nn._trainer import Trainer, Training

__all__ = [
    "Active",
    "ImportanceMasks",
    "LayerStep",
    "LayerSteps",
    "Masks",
    "Opaque",
    "Plan",
    "RandomMasks",
    "SeededDescent",
    "Trainer",
    "Training",
    "backward",
    "grasp_scores",
    "layer_ratios",
    "layer_steps",
    "magnitude_scores",
    "plan",
    "read_cifar10",
    "read_idx",
    "read_jpegs",
    "read_mnist",
]
