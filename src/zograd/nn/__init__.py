"""Networks without backpropagation: what a gradient costs, and the cheapest way to it."""

from zograd.nn._backward import backward, plan
from zograd.nn._files import read_cifar10, read_idx, read_jpegs, read_mnist
from zograd.nn._opaque import Opaque
from zograd.nn._plan import Plan
from zograd.nn._seeded_descent import SeededDescent

__all__ = ["Opaque", "Plan", "SeededDescent", "backward", "plan", "read_cifar10", "read_idx", "read_jpegs", "read_mnist"]
