"""Strategies: what to evaluate next, and what to make of it."""

from zograd.strategies._choose import choose
from zograd.strategies._descent import Descent, OptimizerFactory, SchedulerFactory
from zograd.strategies._strategy import Step, Strategy

__all__ = ["Descent", "OptimizerFactory", "SchedulerFactory", "Step", "Strategy", "choose"]
