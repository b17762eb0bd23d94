"""The chooser: an estimator and a step rule for whoever named none."""

from functools import partial
from typing import final

from zograd._checks import instance, require
from zograd._parameters import Parameters
from zograd.estimators import CoordinateGradient, FrameGradient, GradientEstimator, PolynomialSurrogate, RandomGradient
from zograd.optim import AnnealedAdam, BlockNewton, QuasiNewton, TrustRegion
from zograd.optim._annealed_adam import CHECKS
from zograd.strategies._contest import Contest
from zograd.strategies._descent import Descent, OptimizerFactory, SchedulerFactory
from zograd.strategies._field import BLOCK, LENGTH, field
from zograd.strategies._newton_or_cmaes import NewtonOrCMAES
from zograd.strategies._pilot import Pilot
from zograd.strategies._strategy import Strategy, StrategyFactory

LARGEST_FRAME = 200
"""The most parameters for which a dense metric is kept: its arithmetic is O(d^3) a gradient."""
GRADIENTS = 5
"""The least number of full gradients that a dense metric is worth."""
HEAT, SHARE = 64, 100
"""A heat of a contest has so many evaluations, or one in so many of the budget where that is more."""
FEWEST = 16
"""Heats that a contest needs."""
LONG = 4
"""Evaluations a parameter from which blocks see each twice, and mostly win in the end however slowly they begin."""
RICH = 20
"""Evaluations a parameter from which others may start beside the blocks: a look at one costs a tenth of them."""
SAMPLES = 4
"""Directions a step where there is noise and many parameters."""
PAIRS = 2
"""Mirrored pairs a step for a surrogate with a memory: as few as noise allows."""
SPREAD = 1e-2
"""How far random directions look, in units of the parameters."""


@final
class Chooser:
    """Chooses what the user did not name.

    Few parameters for the budget: `FrameGradient` with `QuasiNewton`, and CMA-ES where the landscape turns out to be
    rugged (`NewtonOrCMAES`). Many: the start is evaluated four times
    (`Pilot`). With noise `RandomGradient` with `AnnealedAdam`, whose probes widen until they are clear of it. Without
    noise a `Contest`: random directions one-sided, mirrored and wide with Adam, and blocks of coordinates with
    `BlockNewton`; who is fastest leads, and may change. From 20 d on it is one of blocks, which begin, and mirrored
    directions. Below 1,024 evaluations there is no room for a contest, and from 4 d to 20 d a second start would cost
    more than a tenth: blocks where they could see every parameter, and random directions where not.

    An estimator alone gets the rule that fits it: a surrogate with curvature `TrustRegion`. An optimiser alone gets
    the estimator that it needs; any other central differences where the budget pays for enough of them, and random
    directions where not.

    Args:
        parameters: What is optimised.
        evaluations: The budget.
        seed: Of all that is random.
        common_random_numbers: Whether the two sides of a pair share their noise: probes need not be clear of it then.

    Attributes:
        said: What was chosen and why, in words; empty where the user named both.
    """

    def __init__(
        self, parameters: Parameters, evaluations: int, seed: int = 0, common_random_numbers: bool = False
    ) -> None:
        self.parameters = parameters
        self.common_random_numbers = common_random_numbers
        self.evaluations = evaluations
        self.seed = seed
        self.said = ""

    def strategy(
        self,
        estimator: GradientEstimator | None = None,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        whole: StrategyFactory | None = None,
    ) -> Strategy:
        """The strategy, with what the user named in its place: parts of it, or the ``whole``.

        Raises:
            ArgumentError: When the estimator is none, there is a scheduler and no optimiser for it, or the whole is
                none, or comes with parts.
        """
        if whole is not None:
            alone = estimator is None and optimizer is None and scheduler is None
            hint = "It decides everything that these would."
            require(alone, "strategy", "come without estimator, optimizer and scheduler", whole, hint)
            hint = "Pass zograd.strategies.CMAES, or functools.partial(zograd.strategies.CMAES, spread=0.1)."
            require(callable(whole), "strategy", "be a Strategy class or a partial of one", whole, hint)
            made = whole(self.parameters, seed=self.seed)
            instance("strategy", made, Strategy, "make a Strategy", hint)
            return made
        if estimator is not None:
            instance("estimator", estimator, GradientEstimator, "a GradientEstimator", "Try zo.RandomGradient().")
        hint = "The rules chosen here find the length of their steps: pass optimizer=torch.optim.Adam, or leave it out."
        require(scheduler is None or optimizer is not None, "scheduler", "come with an optimizer", scheduler, hint)
        d = self.parameters.dimension
        few = d <= LARGEST_FRAME and self.evaluations >= GRADIENTS * (2 * d + 1)
        if optimizer is None:
            if isinstance(estimator, FrameGradient):
                return self._descent(estimator, QuasiNewton, None, "as FrameGradient asks")
            if isinstance(estimator, PolynomialSurrogate) and estimator.curved(d):
                return self._descent(estimator, TrustRegion, None, "to the minimum of what was fitted")
            if estimator is not None:
                return self._descent(estimator, self._annealed(estimator, 0.0), None, "for a step from .grad")
            if few:
                self._took_over("")
                return NewtonOrCMAES(self.parameters, seed=self.seed, report=self._took_over)
            return Pilot(self.parameters, self._for_many)
        if estimator is not None:
            return self._descent(estimator, optimizer, scheduler, "")
        rule = optimizer.func if isinstance(optimizer, partial) else optimizer
        if rule is QuasiNewton:
            return self._descent(FrameGradient(), optimizer, scheduler, "as QuasiNewton asks")
        if rule is TrustRegion:
            return self._descent(PolynomialSurrogate(samples=PAIRS), optimizer, scheduler, "as TrustRegion asks")
        if rule is BlockNewton:
            return self._descent(CoordinateGradient(step=LENGTH), optimizer, scheduler, "as BlockNewton asks")
        if few:
            return self._descent(CoordinateGradient(step=SPREAD), optimizer, scheduler, "central differences")
        return self._descent(RandomGradient(SAMPLES, step=SPREAD), optimizer, scheduler, "random directions")

    def _for_many(self, noise: float) -> Strategy:
        d = self.parameters.dimension
        heat = max(HEAT, self.evaluations // SHARE)
        rich = self.evaluations >= RICH * d
        if noise == 0.0 and FEWEST * heat <= self.evaluations and (rich or self.evaluations < LONG * d):
            self._report("")
            several = field(self.parameters, self.seed, few=rich)
            return Contest(self.parameters, several, heat, self.evaluations, self._report, sweeping=rich)
        if noise == 0.0 and self.evaluations >= 2 * d:
            rule = partial(BlockNewton, block=BLOCK)
            why = f"no noise at the start, so blocks of {min(BLOCK, d)} coordinates"
            return self._descent(CoordinateGradient(step=LENGTH), rule, None, why)
        estimator = RandomGradient(SAMPLES, step=SPREAD)
        why = (
            f"noise of {noise:.2g} at the start, so random directions that widen"
            if noise
            else "too few evaluations to look at every parameter, so random directions"
        )
        return self._descent(estimator, self._annealed(estimator, noise), None, why)

    def _report(self, led: str) -> None:
        self.said = (
            f"Chosen for {self.parameters.dimension} parameters and {self.evaluations} evaluations: a contest, for "
            f"there is no noise at the start, led by {led or 'nobody yet'}."
        )

    def _took_over(self, then: str) -> None:
        d = self.parameters.dimension
        self.said = (
            f"Chosen for {d} parameter{'s' if d > 1 else ''} and {self.evaluations} evaluations: FrameGradient and "
            f"QuasiNewton (central differences in a learned frame){then and '; ' + then}."
        )

    def _annealed(self, estimator: GradientEstimator, noise: float) -> OptimizerFactory:
        left = self.evaluations - (Pilot.COST + CHECKS if noise else 0)
        steps = max(1, left // estimator.evaluations(self.parameters.dimension))
        return partial(AnnealedAdam, steps=steps, noise=noise, shared=self.common_random_numbers)

    def _descent(
        self, estimator: GradientEstimator, optimizer: OptimizerFactory, scheduler: SchedulerFactory | None, why: str
    ) -> Descent:
        descent = Descent(
            self.parameters, estimator=estimator, optimizer=optimizer, scheduler=scheduler, seed=self.seed
        )
        d = self.parameters.dimension
        if why:
            self.said = (
                f"Chosen for {d} parameter{'s' if d > 1 else ''} and {self.evaluations} evaluations: "
                f"{type(estimator).__name__} and {type(descent.optimizer).__name__} ({why})."
            )
        return descent
