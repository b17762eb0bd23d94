"""Training a network without backpropagation."""

from zograd.nn._seeded_descent import SeededDescent

__all__ = ["SeededDescent"]
