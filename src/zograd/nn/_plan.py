"""A gradient's price before it is paid, and the way that it is going to be found."""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from zograd._backward import estimated, finite_loss
from zograd._errors import GradientError
from zograd._typing import Vector
from zograd.blackbox import ModuleLoss, ModuleState, Stage, StagedLoss, TracedLoss, own_stages
from zograd.blackbox.graph import Replay, Tape
from zograd.estimators import CoordinateGradient
from zograd.evaluate import Evaluator, FailurePolicy
from zograd.nn._call import Inquiry
from zograd.nn._contraction import obstacle, sensitivities
from zograd.nn._cost import Price, backwards, measured

Method = Literal["auto", "contraction", "reuse", "plain"]


@final
@dataclass(eq=False)
class Part:
    """A module's parameters in a `Plan`.

    Args:
        name: The module's name.
        coordinates: How many of its parameters' entries are asked for.
        method: How their gradient will be found.
        prices: What each method costs.
    """

    name: str
    coordinates: int
    method: str
    prices: dict[str, Price]


@final
class Plan:
    """How the gradient of a network's loss will be found for one batch, and what that costs.

    Made by `zograd.nn.plan`, for this batch and these values of the parameters. Printed, it is a table. One forward
    pass was made to record what the network does, and two to time it; nothing has been estimated yet.

    Attributes:
        parts: The modules with parameters, in the order of the parameters.
        totals: What each method costs for all of them, those not taken included.
        reason: Why features cannot be reused or contracted, where that is so.
        cost: What the last `backward` really cost, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[Any], Any],
        inputs: Any,
        parameters: list[Tensor],
        *,
        active: Tensor | None,
        method: Method,
        inquiry: Inquiry,
        step: float | Tensor | None = None,
        stages: Sequence[Stage] | None = None,
    ) -> None:
        self.box = ModuleLoss(model, loss_fn, inputs, parameters)
        self.active = active
        self.method = method
        self.inquiry = inquiry
        self.step = step
        self.stages = stages
        self.reason = ""
        self.cost: Price | None = None
        self.parts: list[Part] = []
        self.totals: dict[str, Price] = {}
        self._before = ModuleState(model)
        self._traced: TracedLoss | None = None
        self._staged: StagedLoss | None = None
        self._obstacles: dict[int, str] = {}
        with torch.no_grad():
            try:
                self._prepare()
            finally:
                self._before.restore()

    def _prepare(self) -> None:
        began = time.perf_counter()
        if self.method == "reuse" and self.stages is not None:
            self._staged = StagedLoss(self.box, self.stages)
        elif self.method != "plain":
            self._traced = TracedLoss(self.box, relative=self.box.center.dtype != torch.float64)
            self.reason = self._traced.reason
            if self.tape is None and self.method != "contraction":
                given = self.stages
                self._staged = own_stages(self.box) if given is None else StagedLoss(self.box, given)
        self._seconds = time.perf_counter() - began
        if self.tape is not None:
            self._obstacles = {
                at: said for at, node in enumerate(self.tape.nodes) if (said := obstacle(node, self.tape.values))
            }

    @property
    def tape(self) -> Tape | None:
        """The recorded forward pass, or None where there is none."""
        return None if self._traced is None else self._traced.tape

    def way(self, which: int) -> str:
        """How the gradient of one parameter is found."""
        if self._staged is not None:
            return "reuse"
        if self.tape is None and self.method in ("contraction", "reuse"):
            raise GradientError(
                f"no record of the forward pass can be made: {self.reason}. Take method='auto', or pass stages= whose "
                "composition is the model."
            )
        if self.tape is None:
            return "plain"
        if self.method == "reuse":
            return "reuse"
        blocked = self._blocked(which)
        if blocked and self.method == "auto":
            self.reason = self.reason or blocked
            return "reuse"
        if blocked:
            raise GradientError(f"contraction cannot pass: {blocked}. Take method='auto'.")
        return "contraction"

    def _blocked(self, which: int) -> str:
        """What stands between a parameter and the loss."""
        tape = self.tape
        if tape is None or not self._obstacles:
            return ""
        behind = {id(node) for node in tape.needed([tape.parameters[which]])}
        return next((said for at, said in self._obstacles.items() if id(tape.nodes[at]) in behind), "")

    def backward(self, evaluator: Evaluator | None = None) -> Tensor:
        """Find the gradient, add it to ``.grad``, and return the loss, shape ().

        Args:
            evaluator: Who moves coordinates one by one, where that is to be done; this process by default.

        Warns when coordinates have to be found one by one though it was not asked for.

        Raises:
            EvaluationError: When the loss is not finite.
            GradientError: When the chosen method cannot find it.
        """
        began = time.perf_counter()
        self.inquiry.queries.clear()
        self.inquiry.work = 0
        self._before.restore()
        with torch.no_grad():
            try:
                loss, after = self._forward()
                gradient, rows = self._gradient(loss, evaluator)
            except BaseException:
                self._before.restore()
                raise
            after.restore()
            add_to_gradients(self.box, gradient)
        self.cost = Price(self.inquiry.total + rows, 0.0, 0, time.perf_counter() - began)
        return loss

    def _forward(self) -> tuple[Tensor, ModuleState]:
        """The loss, and the state that one forward pass leaves; it is undone."""
        if self._traced is not None and self._traced.tape is not None:
            tape = self._traced.tape
            return finite_loss(tape.values[tape.result].reshape(()).clone(), FailurePolicy()), self._traced.after
        loss = self.box.from_start().detach().clone()
        after = ModuleState(self.box.model)
        self._before.restore()
        return finite_loss(loss, FailurePolicy()), after

    def _gradient(self, loss: Tensor, evaluator: Evaluator | None) -> tuple[Vector, int]:
        """The gradient in the flat vector, and the rows of the probes."""
        asked = self._asked()
        ways = [self.way(which) if which in asked else "none" for which in range(len(self.box.parameters))]
        gradient = torch.zeros_like(self.box.center)
        try:
            contracted = [which for which, way in enumerate(ways) if way == "contraction"]
            pieces = self.box.pieces(gradient)
            for which, found in self._contracted(contracted).items():
                pieces[which].copy_(found)
        except GradientError as error:
            if self.method != "auto":
                raise
            self.reason = str(error).rstrip(".")
            ways = ["reuse" if which in asked else "none" for which in range(len(ways))]
            gradient.zero_()
        if self.active is not None:
            kept = torch.zeros_like(gradient)
            kept[self.active] = gradient[self.active]
            gradient = kept
        rest = self._coordinates([which for which, way in enumerate(ways) if way in ("reuse", "plain")])
        if len(rest):
            if self.method == "auto":
                way = "a forward pass" if self.tape is None and self._staged is None else "a part of a forward pass"
                warnings.warn(
                    f"{len(rest):,} coordinates are found one by one, with {way} for each of {2 * len(rest):,} probes: "
                    f"{self.reason}. Wrap the part that stands in the way in zo.nn.Opaque, or pass method='reuse' or "
                    f"'plain' if that is what you want.",
                    stacklevel=4,
                )
            estimator = CoordinateGradient(step=self.step, active=rest)
            reused = self._staged or self._traced if "reuse" in ways else None
            box = (lambda: reused) if reused is not None else None
            gradient += estimated(self.box, estimator, FailurePolicy(), torch.Generator(), loss, box, evaluator)
        return gradient, 2 * len(rest)

    def _asked(self) -> set[int]:
        """The parameters with a coordinate that is asked for: the sweep stops at the first of them."""
        if self.active is None:
            return set(range(len(self.box.parameters)))
        ends = torch.tensor([p.numel() for p in self.box.parameters]).cumsum(0)
        return set(torch.bucketize(self.active.cpu(), ends, right=True).tolist())

    def _contracted(self, which: list[int]) -> dict[int, Tensor]:
        tape = self.tape
        if tape is None or not which:
            return {}
        places = {tape.parameters[at]: at for at in which}
        seed = {tape.result: torch.ones_like(tape.values[tape.result])}
        found = sensitivities(tape, seed, places, self.inquiry)
        return {places[place]: value for place, value in found.items()}

    def _coordinates(self, which: list[int]) -> Tensor:
        """The coordinates of some parameters that are asked for."""
        mask = torch.zeros_like(self.box.center)
        for at, piece in enumerate(self.box.pieces(mask)):
            piece.fill_(at in which)
        if self.active is not None:
            asked = torch.zeros_like(mask)
            asked[self.active] = 1.0
            mask *= asked
        return mask.nonzero().squeeze(1)

    def estimate(self) -> "Plan":
        """Fill in what everything costs: one forward pass, operation by operation."""
        names = {id(p): name.rpartition(".")[0] or "(model)" for name, p in self.box.model.named_parameters()}
        owners = [names.get(id(p), "(other)") for p in self.box.parameters]
        active = [len(self._coordinates([which])) for which in range(len(owners))]
        tape = self.tape
        began = time.perf_counter()
        self.box.from_start()
        passed = time.perf_counter() - began
        self._before.restore()
        prices = [] if tape is None else measured(tape)
        whole = sum(prices, Price())
        forward = Price(1, whole.flops, 0, passed)
        for name in dict.fromkeys(owners):
            mine = [which for which, owner in enumerate(owners) if owner == name]
            found = {"plain": sum((forward.times(2 * active[which]) for which in mine), Price())}
            if tape is not None:
                found["reuse"] = sum((self._reused(tape, prices, which, active[which]) for which in mine), Price())
            elif self._staged is not None:
                staged = self._staged
                found["reuse"] = sum((self._restaged(staged, forward, at, active[at]) for at in mine), Price())
            self.parts.append(Part(name, sum(active[which] for which in mine), self.way(mine[0]), found))
        if tape is not None:
            self._share(tape, prices, owners)
        for way in ("plain", "reuse", "contraction"):
            if all(way in part.prices for part in self.parts):
                self.totals[way] = sum((part.prices[way] for part in self.parts), Price())
        self.totals["this plan"] = sum((part.prices[part.method] for part in self.parts), Price()) + forward
        return self

    @staticmethod
    def _reused(tape: Tape, prices: list[Price], which: int, rows: int) -> Price:
        place = tape.parameters[which]
        path = {id(node) for node in tape.needed([place])}
        whole = sum((price for node, price in zip(tape.nodes, prices, strict=True) if id(node) in path), Price())
        memory = tape.bytes() + Replay(tape).elements(place) * tape.values[place].element_size()
        return Price(2 * rows, whole.flops * 2 * rows, memory, whole.seconds * 2 * rows)

    @staticmethod
    def _restaged(staged: StagedLoss, forward: Price, which: int, rows: int) -> Price:
        part = sum(staged.seconds[staged.owners[which] :]) / sum(staged.seconds)
        return Price(2 * rows, forward.flops * 2 * rows * part, staged.nbytes, forward.seconds * 2 * rows * part)

    def _share(self, tape: Tape, prices: list[Price], owners: list[str]) -> None:
        """Give each node's price of going back to the part whose parameter came last before it."""
        totals: dict[str, Price] = {}
        owner_of = dict(zip(tape.parameters, owners, strict=True))
        now = owners[0]
        largest = max((value.nbytes for value in tape.values), default=0)
        for node, price in zip(tape.nodes, prices, strict=True):
            now = next((owner_of[ref] for ref in reversed(node.refs) if ref in owner_of), now)
            back = backwards(node, price, tape.values)
            back = Price(back.queries, back.flops, tape.bytes() + 6 * largest, back.seconds)
            totals[now] = totals.get(now, Price()) + back
        blocked = {owner for which, owner in enumerate(owners) if self._blocked(which)}
        for part in self.parts:
            if part.name not in blocked:
                part.prices["contraction"] = totals.get(part.name, Price())

    def __str__(self) -> str:
        rows = [("part", "coordinates", "method", "queries", "GFLOP", "MB", "seconds")]
        rows += [(p.name, f"{p.coordinates:,}", p.method, *_cells(p.prices[p.method])) for p in self.parts]
        rows.append(("",) * 7)
        for way, price in self.totals.items():
            taken = f"{sum(part.coordinates for part in self.parts):,}"
            rows.append((f"all: {way}" if way != "this plan" else way, taken, "", *_cells(price)))
        widths = [max(len(row[column]) for row in rows) for column in range(7)]
        lines = [
            "  ".join(
                cell.ljust(width) if column in (0, 2) else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        if self.reason:
            lines.append(f"Note: {self.reason}.")
        if self.cost is not None:
            lines.append(f"It took {self.cost.queries:,} queries and {self.cost.seconds:.3g} s.")
        return "\n".join(lines)


def add_to_gradients(box: ModuleLoss, gradient: Vector) -> None:
    """Add the flat gradient to the ``.grad`` of the parameters."""
    for parameter, piece in zip(box.parameters, box.pieces(gradient), strict=True):
        if parameter.grad is None:
            parameter.grad = torch.empty_like(parameter).copy_(piece)
        else:
            parameter.grad.add_(piece.to(parameter.grad))


def _cells(price: Price) -> tuple[str, str, str, str]:
    return (f"{price.queries:,}", f"{price.flops / 1e9:,.3g}", f"{price.memory / 1e6:,.0f}", f"{price.seconds:,.3g}")
