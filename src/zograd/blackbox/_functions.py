"""Python functions as black boxes: one point at a time, a batch at a time, or a torch function."""

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar, final

import numpy as np
import torch
from torch import Tensor

from zograd._checks import require
from zograd._errors import EvaluationError
from zograd._parameters import Parameters
from zograd._probes import Probes
from zograd._typing import Points, Values, Vector
from zograd.blackbox._blackbox import BlackBox
from zograd.blackbox._outputs import NUMBER, Outputs

SAME_AS_FLOAT = (np.dtype(np.float32), np.dtype(np.float64))
"""What a Python float holds exactly."""

Box = TypeVar("Box", bound="FunctionBox")


class FunctionBox(BlackBox):
    """A Python callable as a black box.

    Args:
        function: What is called.
        parameters: How flat points become what the function takes; ``None`` hands it the tensor itself.

    Attributes:
        outputs: How one output is laid out, known after the first call (`None` before it).
    """

    def __init__(self, function: Callable[..., Any], parameters: Parameters | None = None) -> None:
        require(
            callable(function), "function", "be callable", function, "It is called with one point or a batch of them."
        )
        self.function = function
        self.parameters = parameters
        self.outputs: Outputs | None = None
        self.one_number = False

    def over(self: Box, parameters: Parameters, *, one_number: bool = False) -> Box:
        """The same program, taking what ``parameters`` decodes: dictionaries, bounded values, integers.

        Args:
            parameters: What the points mean.
            one_number: Whether one number a point is all that it may return: the first output that is wrong then does
                not decide what is right.
        """
        box = copy.copy(self)
        box.parameters, box.one_number = parameters, one_number
        return box

    def __repr__(self) -> str:
        return f"{type(self).__name__}({getattr(self.function, '__name__', self.function)!s})"

    def _packed(self, result: Any, like: Tensor, rows: int | None) -> Tensor:
        """One result as a tensor of shape out (``rows`` None) or (rows, *out), remembering its structure."""
        outputs, values = Outputs.pack(result, like, rows)
        if self.one_number and values.numel() != (1 if rows is None else rows):
            raise EvaluationError(
                f"{self!r} must return one number a point, found {outputs}; zo.minimize_least_squares takes more.",
                status="invalid",
            )
        if self.outputs is None:
            self.outputs = NUMBER if outputs == NUMBER else outputs
        elif self.outputs != outputs:
            raise EvaluationError(
                f"{self!r} must return one structure every time, found {outputs} after {self.outputs}.",
                status="invalid",
            )
        return values

    @abstractmethod
    def __call__(self, points: Points) -> Values:
        """The values at ``points``."""


@final
class Pointwise(FunctionBox):
    """A function of one point. Each row is timed by itself and may fail by itself."""

    rows_per_call = 1

    def __call__(self, points: Points) -> Values:
        """Call the function once a row."""
        return torch.stack(
            [self._packed(self.function(argument), points, None) for argument in self._arguments(points)]
        )

    def one(self, point: Vector) -> Tensor:
        """Call the function once.

        Raises:
            EvaluationError: When it returns NaN or inf, or nothing made of numbers.
        """
        value = self._value(point.clone() if self.parameters is None else self.parameters.decode(point), point)
        return value if isinstance(value, Tensor) else point.new_tensor(value)

    def each(self, points: Points) -> Iterator[Callable[[], Tensor | float]]:
        """`one` of each row; all rows are decoded at once."""
        for argument in self._arguments(points):
            yield partial(self._value, argument, points)

    def _arguments(self, points: Points) -> Iterator[Any]:
        """What the function takes, for each row: its own to keep or to change."""
        if self.parameters is not None:
            return self.parameters.decode_each(points)
        return (point.clone() for point in points)

    def _value(self, argument: Any, like: Tensor) -> Tensor | float:
        """What the function returns: a float as it is where it has returned one number before, else a tensor."""
        result = self.function(argument)
        if isinstance(result, np.floating | np.ndarray) and result.ndim == 0 and result.dtype in SAME_AS_FLOAT:
            result = float(result)  # without its shape, by which tensors are told from numbers
        if isinstance(result, float):  # the common case, and the one that must be fast
            if not math.isfinite(result):
                raise EvaluationError(f"it returned {result}.", status="invalid")
            if self.outputs is None:
                self.outputs = NUMBER
            if self.outputs is NUMBER:
                return result
        return self._packed(result, like, None)


@final
class Batched(FunctionBox):
    """A function of a batch of points, (n, d) to (n, *out): one call is a whole wave."""

    def __call__(self, points: Points) -> Values:
        """Call the function once."""
        decoded = self.parameters.decode_batch(points) if self.parameters is not None else points.clone()
        return self._packed(self.function(decoded), points, len(points))


@final
class TorchFunction(FunctionBox):
    """A function of one point made of torch operations, so that exact directional derivatives exist.

    Args:
        function: Tensor of shape (d,) to a tensor of shape out.
        parameters: Must decode to one tensor by a linear map (no integers, no log scale) for derivatives to be right.
        vectorize: Evaluate all rows at once with ``torch.vmap``; ``False`` for data-dependent Python inside.
    """

    def __init__(
        self, function: Callable[..., Any], parameters: Parameters | None = None, vectorize: bool = True
    ) -> None:
        super().__init__(function, parameters)
        self.vectorize = vectorize

    def _map(self, function: Callable[..., Any], rows: Tensor) -> Any:
        if self.vectorize:
            return torch.vmap(function)(rows)
        return torch.stack([function(row) for row in rows])

    def _decoded(self, point: Vector) -> Any:
        return point if self.parameters is None else self.parameters.decode(point)

    def __call__(self, points: Points) -> Values:
        """Evaluate all rows, without a graph."""
        with torch.no_grad():
            return self._packed(
                self._map(lambda point: self.function(self._decoded(point)), points), points, len(points)
            )

    def probe(self, probes: Probes) -> Values:
        """Values as ever; directional derivatives at the centre by forward-mode AD (``torch.func.jvp``)."""
        if probes.quantity == "value":
            return super().probe(probes)

        def derivative(offset: Vector) -> Tensor:
            tangent: Tensor = torch.func.jvp(lambda p: self.function(self._decoded(p)), (probes.center,), (offset,))[1]
            return tangent

        with torch.no_grad():
            return torch.cat(
                [
                    self._packed(self._map(derivative, piece.offsets.dense(piece.center)), probes.center, len(piece))
                    for piece in probes.split(self._rows_at_once(probes))
                ]
            )


def pointwise(function: Callable[[Any], Any]) -> Pointwise:
    """A black box from a function of one point.

    Cost: one call a row. Use `batched` where the program takes many points at once.

    Args:
        function: Takes one point, as ``x0`` was given (or a tensor of shape (d,) inside a network), and returns a
            number, an array, or a structure of arrays. An exception, ``None`` or NaN is a lost evaluation.

    Example:
        >>> import torch, zograd as zo
        >>> box = zo.pointwise(lambda x: float(x[0]) ** 2)
        >>> box(torch.tensor([[3.0], [4.0]]))
        tensor([ 9., 16.])
    """
    return Pointwise(function)


def batched(function: Callable[[Any], Any]) -> Batched:
    """A black box from a function of many points: (n, d) to (n, *out), row i from row i alone.

    Cost: one call a wave. An exception loses the whole wave; a NaN row loses that row.

    Args:
        function: Takes the points with a leading dimension n (in every leaf, where ``x0`` is a structure).

    Example:
        >>> import torch, zograd as zo
        >>> box = zo.batched(lambda points: (points**2).sum(1))
        >>> box(torch.tensor([[3.0, 0.0], [4.0, 1.0]]))
        tensor([ 9., 17.])
    """
    return Batched(function)


def torch_function(function: Callable[[Tensor], Any], *, vectorize: bool = True) -> TorchFunction:
    """A black box from a function of torch operations on one point: its directional derivatives are exact.

    It is what `ForwardGradient` needs. Cost: one row a value, and one row a directional derivative.

    Args:
        function: Tensor of shape (d,) to a tensor.
        vectorize: Evaluate all rows at once with ``torch.vmap``; pass ``False`` where Python control flow in the
            function depends on the data.

    Example:
        >>> import torch, zograd as zo
        >>> zo.torch_function(lambda x: (x**2).sum())(torch.tensor([[3.0, 0.0], [4.0, 1.0]]))
        tensor([ 9., 17.])
    """
    return TorchFunction(function, vectorize=vectorize)


def as_blackbox(fun: BlackBox | Callable[[Any], Any]) -> BlackBox:
    """``fun`` itself where it is a black box, `pointwise` of it where it is a plain callable."""
    if isinstance(fun, BlackBox):
        return fun
    require(
        callable(fun),
        "fun",
        "be callable or a black box",
        fun,
        "Pass a function of one point, or zo.batched(function).",
    )
    return Pointwise(fun)
