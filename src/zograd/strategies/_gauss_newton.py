"""Gauss-Newton without derivatives: model every residual, not only the sum of their squares."""

import copy
import math
import sys
from dataclasses import asdict
from typing import Any, final

import torch
from torch import Tensor

from zograd._checks import count, require
from zograd._parameters import Parameters
from zograd._probes import Dense, Probes
from zograd._typing import Points, Values, Vector, Weights
from zograd.optim._step_rule import mid_step
from zograd.strategies._footprints import Grid
from zograd.strategies._goal import Goal
from zograd.strategies._measurement import Measurement
from zograd.strategies._pace import Pace
from zograd.strategies._start import first_offsets, started
from zograd.strategies._strategy import Step, Strategy
from zograd.strategies._trials import BLURS, GROUP, lone_step, model_steps, wave


@final
class GaussNewton(Strategy):
    r"""Fit outputs to a goal: measure how each output moves, and take the step that suits them all best.

    .. math:: f(x) = \frac{1}{m} \| y(x) - t \|^2, \qquad
              s_\lambda = \arg\min_s \| r + J^\top s \|^2 + \lambda \bar\sigma^2 \| s / D \|^2

    with residuals r = y - t, slopes J (d x m) and the mean squared length of J's rows, :math:`\bar\sigma^2`.

    * **A pilot** of 6 evaluations tells noise (the start twice), and jumps from smoothness (opposite points, far and
      near). Slopes are differences over 1e-3 of a unit where the program is smooth, later over less; where it jumps
      over a tenth, and over less when little is gained: slopes of the smoothed program.
    * **A measurement** takes d evaluations. Where parameters touch few of the outputs, those whose footprints are apart
      are moved together (Curtis, Powell and Reid), which may cost a tenth of that. Where the budget is below 3 d
      (and d above 16), or J as a matrix above 2^25 entries, it is along random directions, and the step in their span;
      but first 2 log2(d) evaluations find out whether each output belongs to one parameter.
      Parameters that show nothing are moved farther; where 64 or more jump, sixteen first, to learn how far. Fewer are
      moved each as far as chance wants, up to 8 times the step, where the last measurement led nowhere.
    * **Steps** for one damping or up to 16 are tried at once, a tenth of a measurement, 8 at least where the program
      jumps; of a picture also steps for blurred residuals, whose slopes hold for larger moves, and where it is smooth
      for outputs that all count alike, which keeps a sigmoid's from its wrong end. The best is taken if it is better,
      and every step tried corrects J by Broyden's least change, so that more steps follow without a measurement as
      long as that pays. Where fewer than 64 parameters jump, the best probe of a measurement is taken as well.
    * **Bounds** hold a parameter still where its gradient leads out of them. Whole numbers are probed one apart.
    * **Under noise** the centre is part of every wave, slopes are means of the last few measurements, and what is known
      of the residuals is taken along with every step that leads where the model says: noise averages out. The answer
      is then the centre, with its mean loss.

    Cost: a measurement has one row a group of parameters, d at most, more where they show nothing; a wave 1 to 16.
    Bias: slopes are of first order in the step, and of the smoothed program where it jumps.
    Memory: O(rows x outputs), and J. When to use it: whenever the loss is a sum of squares and its terms are to be had.
    Not when residuals move by jumps larger than themselves, or are fewer than the noise allows to be told apart.

    Args:
        x0: Where to start, or `Parameters`.
        goal: t, in the shape of the outputs or one number; zero by default.
        evaluations: The budget, by which the way to measure is chosen; asking goes on beyond it.
        seed: Of signs and directions.

    Raises:
        ArgumentError: When an argument is not of its kind.

    Example:
        >>> import torch, zograd as zo
        >>> fit = zo.GaussNewton(torch.tensor([-1.2, 1.0]))
        >>> while fit.evaluations < 40:
        ...     x, y = fit.ask().points().T
        ...     step = fit.tell(torch.stack([10 * (y - x**2), 1 - x], 1))
        >>> step.best_value < 1e-12
        True

    References:
        Marquardt, SIAM J. 11 (1963). Broyden, Math. Comp. 19 (1965); Schubert, Math. Comp. 24 (1970).
        Curtis, Powell, Reid, IMA J. 13 (1974). Cartis, Roberts: A derivative-free Gauss-Newton method (2019).
    """

    def __init__(self, x0: Any, *, goal: Any = None, evaluations: int = 1000, seed: int = 0) -> None:
        self.parameters = x0 if isinstance(x0, Parameters) else Parameters(x0)
        self.budget = count("evaluations", evaluations, hint="The budget, by which the method is chosen.")
        self.goal = Goal(goal)
        self.shape: tuple[int, ...] | None = None
        self.generator = torch.Generator().manual_seed(seed)
        start = self.parameters.clip(self.parameters.initial.clone()).cpu()
        self.center = mid_step(self.parameters, self.parameters.integer, start)
        self.best_value, self.best_point = float("inf"), self.center.clone()
        self.number = self.evaluations = 0
        self.phase = "pilot"
        self.residuals = torch.zeros(0, dtype=torch.float64)
        self.value = float("inf")
        self.told = 1
        self.noise = 0.0
        self.pace = Pace()
        self.blur = 0
        self.refused = 0
        self.cycle = (float("inf"), 0)
        self.measurement = Measurement(self.parameters, self.budget)
        self.widest = torch.zeros(0, dtype=torch.float64)
        self._asked: Probes | None = None
        self._steps: Points = torch.zeros(0, 0)
        self._inside = torch.zeros(0, 0)

    # --- what Strategy asks for

    @property
    def said(self) -> str:
        """What was found at the start and chosen for it, in words; empty before."""
        if self.phase == "pilot":
            return ""
        way = "along random directions" if self.measurement.random else "parameter by parameter"
        return (
            f"Gauss-Newton on {self.measurement.outputs} outputs of {len(self.parameters)} parameters "
            f"({self.pace.kind}; slopes {way}, {self.measurement.cost} evaluations each time)."
        )

    @property
    def wave(self) -> int:
        """Steps tried at once."""
        return wave(self.measurement.cost, self.pace.jumps)

    @property
    def answer(self) -> tuple[Vector, float]:
        """The best point seen; under noise the centre, with the mean of its losses."""
        if self.pace.noisy and self.told > 1:
            return self.center.clone(), self.value
        return super().answer

    def losses(self, values: Values) -> Weights:
        """The mean square of each output's difference from the goal."""
        return self.goal.residuals(values, self.shape).square().mean(1)

    def notice(self, values: Values) -> None:
        """Remember the best of these outputs."""
        super().notice(self.losses(values))

    def ask(self) -> Probes:
        """The pilot, a measurement, or steps to try; never more rows than the budget has left."""
        if self._asked is None:
            room = self.budget - self.evaluations - self.pace.noisy
            room = room if room > 0 else sys.maxsize
            if self.phase == "measure" and room <= self.wave and self.measurement.known:
                self.phase = "try"
            if self.phase == "pilot":
                offsets = first_offsets(self.parameters, self.center, self.generator)
            elif self.phase == "measure":
                rest = max(1, room - self.wave)
                offsets = self.measurement.offsets(self.center, self.pace.reach, rest, self.generator)
                offsets = self._with_center(offsets)
            else:
                offsets = self._with_center(self._trials(room))
            self._asked = Probes(self.center.clone(), Dense(offsets))
        return self._asked

    def tell(self, values: Values) -> Step:
        """Take the outputs of the probes last asked for.

        Args:
            values: Shape (n, *out), NaN where an evaluation was lost.

        Raises:
            ArgumentError: When there is not one row a probe, or the goal has another shape.
            GradientError: When the start was lost.
        """
        probes = self.ask()
        require(values.shape[:1] == (len(probes),), "values", f"have {len(probes)} rows, one a probe", values)
        self.shape = tuple(values.shape[1:])
        self.notice(values)
        outputs = self.goal.residuals(values, self.shape)
        losses = outputs.square().mean(1)
        self.evaluations += len(probes)
        self.number += 1
        before = self.center
        diagnostics = {"step": self.pace.reach, "damping": self.pace.damping}
        if self.phase == "pilot":
            self._found(outputs, losses)
            self._move_to_best(probes, outputs, losses)
        else:
            if self.pace.noisy:
                self._again(outputs[0], losses[0])
                outputs, losses = outputs[1:], losses[1:]
            if self.phase == "measure":
                self.measurement.told(outputs, self.residuals)
                diagnostics["measured"] = float(len(outputs))
                self.phase = "try" if self.measurement.known else "measure"
                self.refused = 0
                self._move_to_best(probes, outputs, losses)
            else:
                self._judge(outputs, losses, diagnostics)
        diagnostics["step_length"] = float((self.center - before).norm())
        lost = int((~values.reshape(len(probes), -1).isfinite().all(1)).sum())
        self._asked = None
        value = self.value if math.isfinite(self.value) else None
        return Step(self.number, self.evaluations, value, self.best_value, self.best_point, lost, diagnostics)

    # --- the start

    def _found(self, outputs: Tensor, losses: Tensor) -> None:
        """Learn from the pilot whether there is noise, and whether the outputs are smooth."""
        start = started(outputs, losses)
        self.residuals, self.value, self.noise = start.residuals, start.value, start.noise
        self.pace.begin(start.smooth, start.noisy)
        self.measurement.begin(outputs.shape[1], Grid.of(self.shape or ()), smooth=start.smooth, noisy=start.noisy)
        self.phase = "measure"
        self.cycle = (self.value, self.evaluations)

    def _with_center(self, offsets: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(offsets[:1]), offsets]) if self.pace.noisy else offsets

    def _again(self, outputs: Tensor, loss: Tensor) -> None:
        """Under noise the centre is evaluated with every wave, and its residuals are a mean."""
        if bool(loss.isfinite()):
            if self.told == 1:
                self.noise += 0.1 * (float((outputs - self.residuals).square().mean()) / 2 - self.noise)
            total = self.value * self.told + float(loss)
            self.residuals = (self.residuals * self.told + outputs) / (self.told + 1)
            self.told += 1
            self.value = total / self.told

    def _move_to_best(self, probes: Probes, outputs: Tensor, losses: Weights) -> None:
        """Where few parameters jump the best probe is the next centre; among many it is too small a part of a step."""
        row = int(losses.nan_to_num(nan=math.inf).argmin())
        if self.pace.jumps and self.measurement.few and float(losses[row]) < self.value:
            self.center = self.parameters.clip(probes.points()[row])
            self.residuals, self.value, self.told = outputs[row].clone(), float(losses[row]), 1

    # --- steps

    def _trials(self, room: int) -> Points:
        """Offsets of the steps to try, ``room`` rows at most."""
        slopes, rows = self.measurement.slopes, self.wave
        gradient = slopes.transposed(self.residuals)
        scale = self.measurement.movable(self.center, gradient)
        if rows == 1:
            steps, self.widest = lone_step(slopes, self.residuals, scale, self.pace.damping, self.widest)
        else:
            groups, grid, blur = rows // GROUP, self.measurement.grid, self.blur
            smooth, damping = self.pace.smooth, self.pace.damping
            steps = model_steps(slopes, self.residuals, scale, damping, groups, grid=grid, blur=blur, smooth=smooth)
            self.blur = (blur + groups - 1 - smooth) % len(BLURS)
        inside = steps[:room]
        offsets = self.measurement.spread(inside)
        offsets = self.parameters.clip(self.center + offsets) - self.center
        # Along random directions what is cut off at the bounds is left out of account.
        self._inside = inside if self.measurement.random else offsets[:, self.measurement.free]
        self._steps = offsets
        return offsets

    def _judge(self, outputs: Tensor, losses: Tensor, diagnostics: dict[str, float]) -> None:
        """Take the best of the steps tried, learn from it, and decide whether to measure anew."""
        rows = len(losses)
        known = losses.nan_to_num(nan=float("inf"), posinf=float("inf"))
        row = int(known.argmin())
        before, after = self.value, float(known[row])
        gain = math.log(max(before, 1e-300) / max(after, 1e-300)) if after < before else 0.0
        step = self._steps[row]
        if math.isfinite(after):
            inside = self._inside[row]
            change = self.measurement.slopes.times(inside)
            predicted = before - float((self.residuals + change).square().mean())
            ratio = (before - after) / predicted if predicted > 0 else 0.0
            diagnostics["ratio"] = ratio
            error = outputs[row] - self.residuals - change
            expected = 2 * self.noise * (1 + 1 / self.told)
            if self.pace.noisy and float(error.square().mean()) < expected:
                self._blend(step, change, outputs[row], after)
                return
            if float(inside.norm()) > 1e-12:
                self.measurement.slopes = self.measurement.slopes.corrected(inside, error)
        else:
            ratio = 0.0
        self.pace.tried(row, rows, gain, ratio)
        if gain > 0:
            self.center = self.parameters.clip(self.center + step)
            self.residuals, self.value, self.told = outputs[row].clone(), after, 1
            self.refused = self.measurement.rounds = 0
            self.pace.moved(float(step.abs().max()))
        else:
            self.refused += 1
        start, spent = self.cycle[0], self.evaluations - self.cycle[1]
        rate = math.log(max(start, 1e-300) / max(self.value, 1e-300)) / spent
        again = gain / rows >= 0.5 * rate and gain > 0
        patience = 5 if rows == 1 else 3
        if again or (self.value >= start and self.refused < patience):
            return
        self.measurement.astray = self.pace.jumps and self.value >= start
        self.pace.renewed(rate * spent, spent / self.budget, self.measurement.part)
        self.phase = "measure"
        self.cycle = (self.value, self.evaluations)

    def _blend(self, step: Vector, change: Tensor, outputs: Tensor, loss: float) -> None:
        """Go on to where the model says, and take what is known of the residuals along: noise then averages out."""
        self.center = self.parameters.clip(self.center + step)
        share = 1 / (self.told + 1)
        decrease = float(self.residuals.square().mean() - (self.residuals + change).square().mean())
        self.value = (1 - share) * (self.value - decrease) + share * loss
        self.residuals = torch.lerp(self.residuals + change, outputs, share)
        self.told += 1
        self.refused += 1
        if self.refused >= self.measurement.cost:
            self.phase = "measure"
            self.cycle = (self.value, self.evaluations)

    # --- the state

    NAMES = (
        "center", "best_value", "best_point", "number", "evaluations", "phase", "residuals", "value", "told",
        "noise", "blur", "refused", "cycle", "widest", "shape",
    )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Centre, residuals, slopes, and how the search stands."""
        state = {name: getattr(self, name) for name in self.NAMES}
        state |= {"generator": self.generator.get_state(), "measurement": self.measurement.state_dict()}
        state["pace"] = asdict(self.pace)
        return copy.deepcopy(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave, between two steps."""
        state = copy.deepcopy(state)
        for name in self.NAMES:
            setattr(self, name, state[name])
        self.generator.set_state(state["generator"])
        self.measurement.load_state_dict(state["measurement"])
        self.pace = Pace(**state["pace"])
        self._asked = None
