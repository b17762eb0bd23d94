"""Networks without backpropagation: what a gradient costs, and the cheapest way to it."""

from zograd.nn._backward import backward, plan
from zograd.nn._opaque import Opaque
from zograd.nn._plan import Plan

__all__ = ["Opaque", "Plan", "backward", "plan"]
