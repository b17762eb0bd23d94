"""Strategies: what to evaluate next, and what to make of it."""

from zograd.strategies._choose import Chooser
from zograd.strategies._cmaes import CMAES
from zograd.strategies._contest import Contest, Contestant
from zograd.strategies._descent import Descent, OptimizerFactory, SchedulerFactory
from zograd.strategies._gauss_newton import GaussNewton
from zograd.strategies._newton_or_cmaes import NewtonOrCMAES
from zograd.strategies._pilot import Pilot
from zograd.strategies._relay import Relay
from zograd.strategies._strategy import Step, Strategy, StrategyFactory

__all__ = [
    "CMAES",
    "Chooser",
    "Contest",
    "Contestant",
    "Descent",
    "GaussNewton",
    "NewtonOrCMAES",
    "OptimizerFactory",
    "Pilot",
    "Relay",
    "SchedulerFactory",
    "Step",
    "Strategy",
    "StrategyFactory",
]
