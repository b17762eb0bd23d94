"""`differentiable`: a black box as a layer of a network."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from zograd._checks import count, instance, require
from zograd._errors import EvaluationError, GradientError
from zograd._probes import Coordinates, Probes
from zograd._typing import Points, Values, Weights
from zograd.blackbox import Batched, BlackBox, FunctionBox, as_blackbox
from zograd.blackbox.graph import recorder
from zograd.estimators import GradientEstimator
from zograd.estimators._default import default_estimator
from zograd.evaluate import (
    Collector,
    Evaluator,
    FailurePolicy,
    Finished,
    Tally,
    evaluator_for,
    failure_policy,
    last_words,
)


def differentiable(
    black_box: BlackBox | Callable[[Any], Any],
    *,
    estimator: GradientEstimator | None = None,
    on_failure: str | FailurePolicy = "drop",
    evaluator: Evaluator | None = None,
    event_dims: int = 1,
    seed: int = 0,
) -> "Differentiable":
    r"""A program without a gradient as a layer: its output has a ``grad_fn``, and networks may stand on both sides.

    For a row x of the input, the program's output y = f(x) and the incoming gradient v = dL/dy, the layer hands back

    .. math:: \frac{\partial L}{\partial x} \approx \hat\nabla_x \langle v, f(x) \rangle,

    estimated from the program's values around x. The outputs at the probes are contracted with v as they come, so that
    an output of a million pixels costs no more evaluations than a number.

    **Cost**: one evaluation a row in the forward pass; in the backward pass ``estimator.evaluations(d)`` a row, all
    rows of the batch sent out as one wave. Nothing is spent on it under ``torch.no_grad()``, for an input that needs
    no gradient, or for a row whose incoming gradient is zero everywhere. **Bias, variance**: those of the estimator.
    **When**: a renderer, a simulator or a lookup stands between networks; `minimize` where it stands alone.

    The output is what the program returns, a number, an array, or a dict, tuple or list of arrays, each as a tensor in
    the input's dtype with the input's leading dimensions before its own shape. Inputs of 16 bits are evaluated in
    float32; autocast is off for the program. The input and the program's output must be finite: a row of the *forward*
    pass that is lost (an exception, None, NaN, inf anywhere in its output) raises, unless a value stands in for it.

    Directions come from the layer's own generator, new ones in every backward pass; it is part of ``state_dict()``,
    with the count of evaluations and what the estimator has learned.

    Args:
        black_box: A function of one point, called with a tensor of the event's shape, or ``zo.batched`` or
            ``zo.torch_function`` of a function. A `BlackBox` of your own gets points of shape (n, d).
        estimator: Where to look; ``None`` takes `CoordinateGradient` (central, 2 d evaluations) for up to 64 entries in
            a point and ``RandomGradient(samples=32)`` (64 evaluations) for more.
        on_failure: Of a lost probe: ``"drop"`` leaves it out of the gradient, ``"raise"`` stops, ``zo.value(x)`` takes
            x for every entry of the output, and that in the forward pass too. ``zo.retry(n)`` tries it again first;
            with an ``evaluator`` of your own, that is for it to do, such as ``zo.Pool(retries=n)``.
        evaluator: How the program is run; in this process by default.
        event_dims: How many trailing dimensions of the input are one point: 1 for vectors, 3 for images (C, H, W), 0
            for numbers. All dimensions before them are a batch.
        seed: Of the layer's generator.

    Returns:
        An ``nn.Module``. Its ``evaluations`` counts the rows sent out so far.

    Raises:
        ArgumentError: When an argument is not of its kind, or the input is not floating and finite.
        EvaluationError: When a row of the forward pass, or every probe of a row in the backward pass, is lost.
        GradientError: When the gradient of the gradient is asked for (double backward).

    Example:
        >>> import torch, zograd as zo
        >>> layer = zo.differentiable(lambda x: float(x[0]) ** 2 + 3 * float(x[1]))  # floats: no autograd inside
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64, requires_grad=True)
        >>> layer(x).sum().backward()
        >>> x.grad.round(decimals=6)
        tensor([[2., 3.],
                [6., 3.]], dtype=torch.float64)
        >>> layer.evaluations  # 2 forward, 2 rows x 2 coordinates x 2 sides backward
        10

    References:
        - Mohamed, Rosca, Figurnov and Mnih, Monte Carlo gradient estimation in machine learning, JMLR 2020, section 3.
        - Liu et al., A primer on zeroth-order optimization in signal processing and machine learning, IEEE Signal
          Process. Mag. 2020.
    """
    policy = failure_policy(on_failure)
    return Differentiable(
        as_blackbox(black_box),
        estimator=estimator,
        policy=policy,
        evaluator=evaluator if evaluator is not None else evaluator_for(policy),
        event_dims=event_dims,
        seed=seed,
    )


@final
class Differentiable(nn.Module):
    """What `differentiable` makes: see there.

    Attributes:
        evaluations: Rows sent out so far, those of forward passes included.
    """

    def __init__(
        self,
        black_box: BlackBox,
        *,
        estimator: GradientEstimator | None,
        policy: FailurePolicy,
        evaluator: Evaluator,
        event_dims: int,
        seed: int,
    ) -> None:
        super().__init__()
        if estimator is not None:
            instance("estimator", estimator, GradientEstimator, "a GradientEstimator", "Try zo.RandomGradient().")
        instance("evaluator", evaluator, Evaluator, "an Evaluator", "Leave it out to run in this process.")
        self.black_box = black_box
        self.estimator = estimator
        self.policy = policy
        self.evaluator = evaluator
        self.event_dims = count("event_dims", event_dims, least=0, hint="1 for vectors, 3 for images (C, H, W).")
        self.evaluations = 0
        self._generator = torch.Generator().manual_seed(count("seed", seed, least=0))
        # What is known of the program for one shape of points; another shape may have outputs of another.
        self._boxes: dict[tuple[int, ...], BlackBox] = {}
        self._shapes: dict[tuple[int, ...], tuple[int, ...]] = {}

    def forward(self, x: Tensor) -> Any:
        """The program's outputs at the points of ``x``, shape (*batch, *event) to (*batch, *out) in every leaf."""
        good = x.is_floating_point() and x.ndim >= self.event_dims
        require(good, "x", f"be a floating tensor with at least {self.event_dims} dimensions (event_dims)", x)
        event = tuple(x.shape[x.ndim - self.event_dims :])
        batch = tuple(x.shape[: x.ndim - self.event_dims])
        require(math.prod(event) > 0, "x", "have at least one entry in a point", x)
        rows = x.reshape(math.prod(batch), math.prod(event))
        values = self._evaluated(rows, event)
        values = values.reshape((*batch, *values.shape[1:]))
        box = self._box(event)
        outputs = box.outputs if isinstance(box, FunctionBox) else None
        return values if outputs is None else outputs.unpack(values)

    def _evaluated(self, rows: Points, event: tuple[int, ...]) -> Values:
        """The program at each row: one operation for autograd, or for who records the network."""
        listener = recorder()
        if listener is None or not listener.depends(rows):
            found: Tensor = _Evaluation.apply(rows, self, event)  # type: ignore[no-untyped-call]
            return found
        with listener.paused():
            found = self._values(rows.detach(), event)
        listener.write(_Recorded(self, event), (rows,), {}, found)
        return found

    def get_extra_state(self) -> dict[str, Any]:
        """The generator, the count of evaluations, and what the estimator has learned."""
        return {
            "generator": self._generator.get_state(),
            "evaluations": self.evaluations,
            "estimator": {} if self.estimator is None else self.estimator.state_dict(),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take back what `get_extra_state` gave: the next directions are the same."""
        self._generator.set_state(state["generator"].cpu())
        self.evaluations = state["evaluations"]
        if self.estimator is not None:
            self.estimator.load_state_dict(state["estimator"])

    def extra_repr(self) -> str:
        """The program and the estimator."""
        return f"{self.black_box!r}, estimator={self.estimator!r}, event_dims={self.event_dims}"

    def _box(self, event: tuple[int, ...]) -> BlackBox:
        """The black box for points of shape ``event``: a function of its own gets them in that shape."""
        if event not in self._boxes:
            box = self.black_box
            if isinstance(box, FunctionBox):
                box = copy.copy(box)
                box.outputs = None
                if len(event) != 1 and box.parameters is None:
                    box.function = _Shaped(box.function, event, isinstance(box, Batched))
            self._boxes[event] = box
        return self._boxes[event]

    def _values(self, rows: Points, event: tuple[int, ...]) -> Values:
        """The forward pass: the program at each row."""
        hint = "Look at what comes before this layer: a diverged network, a division by zero."
        require(bool(rows.isfinite().all()), "x", "have finite entries only", rows, hint)
        if len(rows) == 0:
            known = event in self._shapes
            hint = "What the program returns is known from its first output: call the layer with a row once."
            require(known, "x", "have at least one row in the first call", rows, hint)
            return rows.new_zeros(0, *self._shapes[event])
        index, still = torch.zeros(1, dtype=torch.long), torch.zeros(1)
        wave = [Probes(row, Coordinates(index, still)) for row in _computed(rows)]
        collector = Collector(wave, replace(self.policy, stop=False), self._shapes.get(event))
        with _plain_arithmetic(rows):
            for finished in self._sent(event, wave):
                collector.add(finished)
                if collector.tally.total and math.isnan(self.policy.fill):
                    raise EvaluationError(
                        f"the program was lost at row {finished.call} of the batch, so that there is no output to hand "
                        f"on.{last_words(collector.tally)} Pass on_failure=zo.value(number) to hand on that number.",
                        status="invalid" if finished.status == "ok" else finished.status,
                        row=finished.call,
                    ) from finished.exception
        values = torch.cat(collector.values())
        self._shapes[event] = tuple(values.shape[1:])
        return values.to(rows.dtype)

    def _gradient(self, incoming: Values, rows: Points, event: tuple[int, ...]) -> Points:
        """The backward pass: one estimate a row, all probes in one wave."""
        centers = _computed(rows)
        weights = incoming.reshape(len(rows), math.prod(incoming.shape[1:])).to(centers)
        gradient = torch.zeros_like(centers)
        finite = weights.isfinite().all(1)
        # As autograd does; a gradient scaler looks for it.
        gradient[~finite] = math.nan
        asked = (finite & (weights != 0).any(1)).nonzero().flatten()
        if len(asked) == 0:
            return gradient.to(rows.dtype)
        estimator = self.estimator if self.estimator is not None else default_estimator(centers.shape[1])
        wave = [estimator.propose(centers[row], self._generator) for row in asked.tolist()]
        values, tally = self._contracted(wave, weights[asked], event)
        for row, probes, told in zip(asked.tolist(), wave, values, strict=True):
            if not told.isfinite().any():
                raise EvaluationError(
                    f"every one of the {len(probes)} probes of row {row} of the batch was lost ({tally} in this "
                    f"wave).{last_words(tally)} Look closer to the centre, or pass on_failure=zo.value(number).",
                    row=row,
                ) from (tally.last.exception if tally.last is not None else None)
            gradient[row] = estimator.gradient(probes, told).gradient
        return gradient.to(rows.dtype)

    def _contracted(self, wave: list[Probes], weights: Values, event: tuple[int, ...]) -> tuple[list[Tensor], Tally]:
        """The outputs at every probe, times the incoming gradient of its row: one number a probe."""
        policy = FailurePolicy(stop=self.policy.stop, max_lost=self.policy.max_lost)
        collector = Collector(wave, policy, shape=())
        shape = self._shapes[event]
        with _plain_arithmetic(weights):
            for finished in self._sent(event, wave):
                collector.add(_contraction(finished, weights[finished.call], shape))
        values = collector.values()
        if not math.isnan(self.policy.fill):
            for call, probes in enumerate(wave):
                if probes.quantity == "value":
                    values[call] = values[call].nan_to_num(nan=float(self.policy.fill * weights[call].sum()))
        return values, collector.tally

    def _sent(self, event: tuple[int, ...], wave: Sequence[Probes]) -> Iterator[Finished]:
        self.evaluations += sum(map(len, wave))
        return self.evaluator.stream(self._box(event), wave)


@final
@dataclass(frozen=True, slots=True)
class _Recorded:
    """The layer as one operation of a recorded forward pass (`zograd.nn`).

    Args:
        layer: The layer.
        event: The shape of a point.
    """

    layer: Differentiable
    event: tuple[int, ...]
    name = "differentiable"

    def __call__(self, rows: Points) -> Values:
        return self.layer._values(rows.detach(), self.event)

    def pull(self, rows: Points, sensitivity: Values) -> Points:
        """The sensitivity of the rows, as the layer's estimator tells it."""
        return self.layer._gradient(sensitivity, rows.detach(), self.event)


@final
@dataclass(frozen=True, slots=True)
class _Shaped:
    """A function of points in their own shape, as one of flat points."""

    function: Callable[[Any], Any]
    event: tuple[int, ...]
    batched: bool

    @property
    def __name__(self) -> str:
        return getattr(self.function, "__name__", str(self.function))

    def __call__(self, flat: Tensor) -> Any:
        return self.function(flat.reshape(flat.shape[0], *self.event) if self.batched else flat.reshape(self.event))


@final
class _Evaluation(torch.autograd.Function):
    """The forward pass, and the estimate as its backward pass."""

    @staticmethod
    def forward(rows: Tensor, layer: Differentiable, event: tuple[int, ...]) -> Tensor:
        return layer._values(rows.detach(), event)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Differentiable, tuple[int, ...]], output: Tensor) -> None:
        rows, ctx.layer, ctx.event = inputs
        ctx.save_for_backward(rows)

    @staticmethod
    def backward(ctx: Any, *incoming: Tensor) -> tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        return _Gradient.apply(incoming[0], rows, ctx.layer, ctx.event), None, None  # type: ignore[no-untyped-call]


@final
class _Gradient(torch.autograd.Function):
    """The estimate, whose own derivative is refused."""

    @staticmethod
    def forward(incoming: Tensor, rows: Tensor, layer: Differentiable, event: tuple[int, ...]) -> Tensor:
        return layer._gradient(incoming.detach(), rows.detach(), event)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, *incoming: Tensor) -> None:
        raise GradientError(
            "the gradient of a zo.differentiable layer is an estimate from the program's values and cannot be "
            "differentiated again, as a gradient penalty, a Hessian, or torch.autograd.grad with create_graph=True "
            "would. Detach the gradient first, or put the penalty into the program."
        )


@contextmanager
def _plain_arithmetic(like: Tensor) -> Iterator[None]:
    """No graph, and no autocast, which would round the very differences that the estimate lives on."""
    with torch.no_grad(), torch.autocast(like.device.type, enabled=False):
        yield


def _computed(rows: Points) -> Points:
    """``rows`` in the precision that the estimate is made in."""
    return rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows


def _contraction(finished: Finished, weights: Weights, shape: tuple[int, ...]) -> Finished:
    """A finished piece with one number a row."""
    values = finished.values
    if values is None:
        return finished
    if tuple(values.shape[1:]) != shape:
        error = f"the program must return shape {shape}, as at the centre, found {tuple(values.shape[1:])}."
        return replace(finished, status="invalid", values=None, error=error)
    # Row by row: a product of many rows at once rounds by how many there are, and that is a matter of time.
    rows = values.reshape(len(values), len(weights)).to(weights)
    return replace(finished, values=torch.stack([row @ weights for row in rows]))
