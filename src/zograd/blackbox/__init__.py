"""What is evaluated."""

from zograd.blackbox._blackbox import BlackBox

__all__ = ["BlackBox"]
