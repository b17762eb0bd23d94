"""What the suite compares: cases (a problem, a budget, targets) and methods (a strategy, and what of it is tuned)."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch

import zograd as zo
from zograd import problems
from zograd.estimators._polynomial import DIAGONAL
from zograd.strategies import CMAES, Chooser, Relay

Settings = dict[str, float]


MOVED = 0.1
"""Where a problem always starts at the same point, a seed moves it by so much of the length of its case."""


@dataclass(frozen=True)
class Case:
    """A problem at a budget.

    Args:
        make: A seed to the problem; problems with a random start take it from there.
        budget: Evaluations; a run ends earlier at its last target.
        targets: Losses to reach, each below the one before.
        length: How far a parameter moves before the loss looks different, in units of the parameters: spreads and rates
            of all methods are multiples of it. It is the spread of the released ZeroGrads where it has the problem.
        samples: Directions a step, for the methods that have them.
        tunings: Seeds on which a setting is tried.
        seeds: Seeds on which the best is reported.
        heavy: Left out unless it is named: minutes a run.
    """

    make: Callable[[int], problems.Problem]
    budget: int
    targets: tuple[float, ...]
    length: float
    samples: tuple[int, ...]
    tunings: int = 1
    seeds: int = 5
    heavy: bool = False

    def start(self, seed: int) -> tuple[problems.Problem, zo.Parameters]:
        """The problem and where it starts: by chance on every seed, or one start would be a sample of one."""
        problem = self.make(seed)
        parameters = problem.parameters()
        if "seed" in getattr(problems, problem.name).__annotations__:
            return problem, parameters
        drawn = torch.randn(len(parameters), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        moved = parameters.initial + MOVED * self.length * drawn.to(parameters.initial)
        return problem, parameters.started_at(moved)


def _problem(name: str, **arguments: Any) -> Callable[[int], problems.Problem]:
    """A problem by name, the seed of its start given where it has one."""
    make = getattr(problems, name)
    takes_seed = "seed" in make.__annotations__
    return lambda seed: make(**arguments, **({"seed": seed} if takes_seed else {}))


CASES: dict[str, Case] = {
    "toy": Case(_problem("toy"), 4_000, (1.5, 0.01, 1e-6), 0.033, (4,), tunings=3, seeds=11),
    "plateau": Case(_problem("plateau"), 2_000, (0.2, 0.0), 0.05, (4,), tunings=3, seeds=11),
    "rosenbrock": Case(
        _problem("rosenbrock", squared=True), 10_000, (2.9, 1e-4, 1e-8), 0.033, (4,), tunings=3, seeds=11
    ),
    "led": Case(_problem("led"), 10_000, (0.1, 0.01, 0.0), 0.33, (8, 32), tunings=3, seeds=11),
    "cornell": Case(_problem("cornell"), 3_000, (5e-3, 1e-3, 3e-4), 0.1, (4,), tunings=3, seeds=11),
    "house": Case(_problem("house"), 3_000, (0.03, 0.015, 0.008), 0.1, (4,), tunings=3, seeds=11),
    "rocket": Case(_problem("rocket"), 3_000, (50.0, 10.0, 3.0), 0.1, (4,), tunings=3, seeds=11),
    "caustic": Case(_problem("caustic"), 30_000, (0.15, 0.1, 0.05), 0.0125, (8,)),
    "mnist_weights": Case(_problem("mnist_weights"), 50_000, (0.05, 0.005, 0.0005), 0.025, (8,)),
    "texture64": Case(_problem("texture", size=64), 50_000, (0.05, 0.02, 0.005), 0.025, (32,)),
    "texture": Case(_problem("texture"), 200_000, (0.08, 0.06, 0.04), 0.025, (32,), heavy=True),
    "picture": Case(_problem("picture"), 60_000, (0.05, 0.02, 0.01), 0.1, (8, 32), heavy=True),
}

FACTOR = 10**0.5
"""From one spread or rate of the grid to the next."""
SPREADS, RATES = (-1, 0), (-3, -1)
"""Where the grid begins, as powers of the factor, times the length of the case."""
QUICK_SPREADS, QUICK_RATES = (-1,), (-3, -1)


def _rounded(length: float, power: int) -> float:
    return float(f"{length * FACTOR**power:.3g}")


@dataclass(frozen=True)
class Method:
    """A way to descend, and what of it is tuned.

    Args:
        strategy: Parameters, settings, budget and seed to a strategy.
        tuned: The settings that are tuned: of ``spread``, ``rate`` and ``samples``.
        plain: Whether it is one of the estimators without a memory, to which others are compared.
        samples: Directions a step that are tried besides those of the case.
        most: Parameters up to which it is meant.
        outputs: Whether it sees all outputs of the program instead of the loss; the loss is what is compared.
    """

    strategy: Callable[[zo.Parameters, Settings, int, int], zo.Strategy]
    tuned: tuple[str, ...] = ("spread", "rate", "samples")
    plain: bool = False
    samples: tuple[int, ...] = ()
    most: int | None = None
    outputs: bool = False

    def meant_for(self, case: Case) -> bool:
        """Whether the case has what the method needs."""
        problem = case.make(0)
        return (self.most is None or len(problem.parameters()) <= self.most) and (
            not self.outputs or problem.residuals is not None
        )

    def grid(self, case: Case, quick: bool) -> Iterator[Settings]:
        """The settings to begin with, spreads and rates in units of the parameters."""
        spreads, rates = (QUICK_SPREADS, QUICK_RATES) if quick else (SPREADS, RATES)
        axes: dict[str, list[float]] = {
            "spread": [_rounded(case.length, power) for power in spreads],
            "rate": [_rounded(case.length, power) for power in rates],
            "samples": list(case.samples[:1] if quick else (*self.samples, *case.samples)),
        }
        for values in product(*(axes[name] for name in self.tuned)):
            yield dict(zip(self.tuned, values, strict=True))

    def beside(self, case: Case, settings: Settings) -> Iterator[Settings]:
        """The next larger and smaller spread and rate: the grid grows until the best of it lies inside."""
        for name in {"spread", "rate"} & set(self.tuned):
            power = round(math.log(settings[name] / case.length, FACTOR))
            for other in (power - 1, power + 1):
                yield {**settings, name: _rounded(case.length, other)}


def _adam(estimator: Callable[[Settings], zo.GradientEstimator]) -> Callable[..., zo.Strategy]:
    """A descent with torch's Adam at a constant rate."""

    def made(parameters: zo.Parameters, settings: Settings, budget: int, seed: int) -> zo.Strategy:
        rule = partial(torch.optim.Adam, lr=settings["rate"])
        return zo.Descent(parameters, estimator=estimator(settings), optimizer=rule, seed=seed)

    return made


def _smoothed(settings: Settings, **more: Any) -> zo.GradientEstimator:
    return zo.SmoothedGradient(spread=settings["spread"], samples=int(settings["samples"]), **more)


def _named(name: str) -> Callable[[Settings], zo.GradientEstimator]:
    """An estimator of zograd by name, with its own defaults for all but spread and samples."""

    def made(settings: Settings) -> zo.GradientEstimator:
        estimator: zo.GradientEstimator = getattr(zo, name)(spread=settings["spread"], samples=int(settings["samples"]))
        return estimator

    return made


def _chosen(parameters: zo.Parameters, settings: Settings, budget: int, seed: int) -> zo.Strategy:
    return Chooser(parameters, budget, seed).strategy()


def _cmaes(parameters: zo.Parameters, settings: Settings, budget: int, seed: int) -> zo.Strategy:
    return CMAES(parameters, spread=settings["spread"], seed=seed)


def _outputs(parameters: zo.Parameters, settings: Settings, budget: int, seed: int) -> zo.Strategy:
    return Relay(parameters, evaluations=budget, seed=seed)


def _model(parameters: zo.Parameters, settings: Settings, budget: int, seed: int) -> zo.Strategy:
    return Chooser(parameters, budget, seed).strategy(_named("PolynomialSurrogate")(settings))


DEFAULT, OUTPUTS = "zo.minimize (nothing tuned)", "by its outputs (nothing tuned)"
METHODS: dict[str, Method] = {
    DEFAULT: Method(_chosen, ()),
    OUTPUTS: Method(_outputs, (), outputs=True),
    "ES (antithetic)": Method(_adam(_smoothed), plain=True),
    "smoothed (derivative)": Method(_adam(partial(_smoothed, importance="derivative")), plain=True),
    "SPSA": Method(
        _adam(lambda settings: zo.RandomGradient(1, step=settings["spread"], directions="rademacher")),
        ("spread", "rate"),
        plain=True,
    ),
    "FD": Method(
        _adam(lambda settings: zo.CoordinateGradient(step=settings["spread"])), ("spread", "rate"), plain=True
    ),
    "CMA-ES": Method(_cmaes, ("spread",)),
}
METHODS["PolynomialSurrogate, TrustRegion"] = Method(_model, ("spread", "samples"), samples=(1,), most=DIAGONAL)
for surrogate in ("NeuralSurrogate", "PolynomialSurrogate", "NearestNeighbourGradient"):
    if hasattr(zo, surrogate):
        METHODS[surrogate] = Method(_adam(_named(surrogate)))
