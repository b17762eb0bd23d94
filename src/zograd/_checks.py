"""The only functions that word an argument error: what must hold, what was found, what to do."""

import math
from collections.abc import Iterable
from typing import Any, TypeVar

from torch import Tensor

from zograd._errors import ArgumentError

T = TypeVar("T")


def require(condition: bool, argument: str, must: str, found: Any, hint: str = "") -> None:
    """Raise `ArgumentError` unless ``condition`` holds.

    Args:
        condition: What must be true.
        argument: The argument's name, as the user typed it.
        must: What must hold, completing the sentence "`argument` must ...".
        found: What was passed.
        hint: What the argument is and what to try instead.

    Raises:
        ArgumentError: When the condition does not hold.
    """
    if not condition:
        raise ArgumentError(
            f"`{argument}` must {must}, found {_shown(found)}." + (f" {hint}" if hint else ""),
            argument=argument,
            found=found,
        )


def positive(argument: str, value: float, hint: str = "") -> float:
    """Return ``value``, a finite number above zero."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    require(number and math.isfinite(value) and value > 0, argument, "be a positive number", value, hint)
    return float(value)


def count(argument: str, value: int, least: int = 1, hint: str = "") -> int:
    """Return ``value``, a whole number of at least ``least``."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    require(whole and value >= least, argument, f"be a whole number of at least {least}", value, hint)
    return value


def one_of(argument: str, value: T, allowed: Iterable[T], hint: str = "") -> T:
    """Return ``value``, which must be one of ``allowed``."""
    options = list(allowed)
    require(value in options, argument, "be one of " + ", ".join(repr(o) for o in options), value, hint)
    return value


def instance(argument: str, value: Any, kind: type[T] | tuple[type[T], ...], must: str, hint: str = "") -> T:
    """Return ``value``, which must be an instance of ``kind``, described by ``must``."""
    require(isinstance(value, kind), argument, f"be {must}", value, hint)
    return value  # type: ignore[no-any-return]


def vector(argument: str, value: Tensor, hint: str = "") -> Tensor:
    """Return ``value``, a floating tensor of shape (d,) with d >= 1 and finite entries."""
    good = isinstance(value, Tensor) and value.is_floating_point() and value.ndim == 1 and value.numel() > 0
    require(good, argument, "be a floating tensor of shape (d,) with d >= 1", value, hint)
    finite = math.isfinite(float(value.detach().sum()))  # quick, but it may overflow
    finite = finite or bool(value.isfinite().all())
    require(finite, argument, "have finite entries only", value, hint)
    return value


def _shown(found: Any) -> str:
    """``found`` in one short line."""
    if isinstance(found, Tensor):
        return f"a tensor of shape {tuple(found.shape)} and dtype {found.dtype}"
    text = repr(found)
    return text if len(text) <= 120 else text[:117] + "..."
