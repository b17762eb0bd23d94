"""Quasi-Newton steps where the landscape has slopes, CMA-ES where it turns out to be rugged."""

from collections.abc import Callable
from typing import cast, final

from zograd._parameters import Parameters
from zograd.estimators import FrameGradient
from zograd.optim import QuasiNewton
from zograd.strategies._cmaes import CMAES
from zograd.strategies._descent import Descent
from zograd.strategies._handover import Handover
from zograd.strategies._strategy import Step

RUGGED = 10
"""Gradients in a row whose Newton step was not the best point seen; fewer are missed while a metric is learned."""


@final
class NewtonOrCMAES(Handover[Descent, CMAES]):
    r"""`FrameGradient` with `QuasiNewton`; where its Newton steps fail again and again, `CMAES` from the best point.

    Central differences tell slopes and curvature where there are some at the scale of the probes. Where the loss jumps
    or is rugged at every scale, they are chance: the Newton step misses, and the best point is one of the probes, which
    is a random search with probes that only get shorter. Ten gradients in a row of that are taken for a rugged
    landscape. CMA-ES then goes on from the best point, as wide as it begins by default, for it only compares values.

    Cost: that of the part that is running; ten gradients of ``2 d`` evaluations are lost on a rugged landscape. Under
    noise the descent goes on, which averages; so it does with one parameter, where no covariance is to be learned.

    Args:
        parameters: What the points mean.
        seed: Of restarts and populations.
        report: Told in words when the second takes over.

    References:
        Hansen, The CMA evolution strategy: a tutorial, arXiv:1604.00772. Nocedal and Wright, Numerical optimization,
        2006, chapter 6.
    """

    def __init__(self, parameters: Parameters, *, seed: int = 0, report: Callable[[str], None] | None = None) -> None:
        super().__init__(Descent(parameters, estimator=FrameGradient(), optimizer=QuasiNewton, seed=seed))
        self.seed, self.report = seed, report

    def pays(self, step: Step) -> bool:
        """Whether a Newton step was right not long ago, or nothing else is to be had."""
        rule = cast(QuasiNewton, self.first.optimizer)
        return rule.missed < RUGGED or rule.noise > 0 or self.parameters.dimension == 1

    def next(self, parameters: Parameters) -> CMAES:
        """A population around the best point."""
        if self.report is not None:
            self.report(f"from {self.left[1]} evaluations on CMA-ES, for {RUGGED} Newton steps in a row missed")
        return CMAES(parameters, seed=self.seed)
