"""Rule zero: the gradient has the right size. One function says so of any estimator, yours too."""

from zograd.testing._conforms import assert_conforms

__all__ = ["assert_conforms"]
