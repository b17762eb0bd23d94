"""What is evaluated: Python functions now, command lines and modules as they come."""

from zograd.blackbox._blackbox import BlackBox, Share
from zograd.blackbox._functions import (
    Batched,
    FunctionBox,
    Pointwise,
    TorchFunction,
    as_blackbox,
    batched,
    pointwise,
    torch_function,
)
from zograd.blackbox._module import ModuleLoss, ModuleState
from zograd.blackbox._outputs import Outputs
from zograd.blackbox._program import Program
from zograd.blackbox._staged import Stage, StagedLoss, own_stages
from zograd.blackbox._traced import TracedLoss

__all__ = [
    "Batched",
    "BlackBox",
    "FunctionBox",
    "ModuleLoss",
    "ModuleState",
    "Outputs",
    "Pointwise",
    "Program",
    "Share",
    "Stage",
    "StagedLoss",
    "TorchFunction",
    "TracedLoss",
    "as_blackbox",
    "batched",
    "own_stages",
    "pointwise",
    "torch_function",
]
