"""CMA-ES, from the `cmaes` package: a baseline that is nobody's estimate of a gradient."""

from collections.abc import Mapping
from typing import Any, final

import numpy as np
import torch

from zograd._checks import count, positive, require
from zograd._errors import GradientError
from zograd._parameters import Parameters
from zograd._probes import Dense, Probes
from zograd._typing import Values
from zograd.strategies._strategy import Step, Strategy

LARGEST_MATRIX = 200
"""The most parameters for which a full matrix is adapted. In `cmaes` a sample of it costs O(d^3) operations, and to
learn it takes some d^2 evaluations. Above it the matrix is diagonal."""
MOST_TRIES = 20
"""The most parameters for which a sample outside the bounds is drawn again. In more, hardly any would be inside."""


@final
class CMAES(Strategy):
    r"""Minimise by CMA-ES, covariance matrix adaptation, through the `cmaes` package.

    Every generation draws n points from :math:`\mathcal N(m, \sigma^2 C)` and moves m, sigma and C towards the better
    half. It knows the order of the values alone, so that any increasing function of the loss gives the same run.
    It starts again from the start with twice the points where it has converged before the budget is spent (IPOP).

    Cost: ``samples`` evaluations a step, 4 + 3 log d by default. Bounds: points outside are drawn again in few
    dimensions, and moved to the nearest inside in many.

    When to use it: few parameters, rugged or badly scaled landscapes, or as the baseline that a method must beat. In
    more than some hundred parameters, methods that estimate a gradient need fewer evaluations.

    Args:
        parameters: What is optimised, or ``x0`` as `Parameters` takes it.
        spread: The standard deviation of the first points, in units of the parameters (of a parameter with two bounds,
            a unit is their distance).
        samples: Points a generation; at least 2.
        separable: Whether the matrix is diagonal; by default only above 200 parameters.
        seed: Same seed, same run.

    Raises:
        ArgumentError: When an argument is not of its kind.

    Example:
        >>> import functools, torch, zograd as zo
        >>> from zograd.strategies import CMAES
        >>> def rosenbrock(x):
        ...     return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
        >>> strategy = functools.partial(CMAES, spread=0.5)
        >>> zo.minimize(rosenbrock, [-1.2, 1.0], evaluations=800, strategy=strategy).fun < 1e-6
        True

    References:
        Hansen, The CMA evolution strategy: a tutorial, arXiv:1604.00772. Ros and Hansen, A simple modification in
        CMA-ES achieving linear time and space complexity, PPSN 2008 (separable). Auger and Hansen, A restart CMA
        evolution strategy with increasing population size, CEC 2005. Nomura and Shibata, cmaes: a simple yet
        practical Python library for CMA-ES, arXiv:2402.01373.
    """

    def __init__(
        self,
        parameters: Any,
        *,
        spread: float = 0.3,
        samples: int | None = None,
        separable: bool | None = None,
        seed: int = 0,
    ) -> None:
        self.parameters = parameters if isinstance(parameters, Parameters) else Parameters(parameters)
        self.spread = positive("spread", spread, "It is a standard deviation, in units of the parameters; try 0.3.")
        self.samples = samples if samples is None else count("samples", samples, least=2)
        d = self.parameters.dimension
        self.separable = d > LARGEST_MATRIX if separable is None else separable
        require(d > 1 or not self.separable, "separable", "be False for one parameter", separable)
        self.seed = count("seed", seed, least=0)
        self.best_value = float("inf")
        self.best_point = self.parameters.clip(self.parameters.initial.clone())
        self.number = self.evaluations = self.restarts = 0
        self._search = self._made()
        self._asked: Probes | None = None

    def ask(self) -> Probes:
        """One generation, around the mean."""
        if self._asked is None:
            points = np.stack([self._search.ask() for _ in range(self._search.population_size)])
            initial = self.parameters.initial
            center = torch.as_tensor(self._search.mean.copy()).to(initial)
            self._asked = Probes(center, Dense(torch.as_tensor(points).to(initial) - center))
        return self._asked

    def tell(self, values: Values) -> Step:
        """Take the values of a generation; a lost one counts as worse than all others.

        Raises:
            ArgumentError: When there is not one value a point.
            GradientError: When all are lost.
        """
        probes = self.ask()
        wanted = (len(probes),)
        require(values.shape == wanted, "values", f"have shape {wanted}, one value a probe asked for", values)
        told = values.isfinite()
        if not told.any():
            raise GradientError(
                f"no generation can be ordered: all {len(values)} evaluations were lost. Check that the program runs "
                "at the start, or start elsewhere."
            )
        self.notice(values)
        worst, least = float(values[told].max()), float(values[told].min())
        ranked = values.where(told, torch.full_like(values, 2 * worst - least + 1.0))
        points = probes.points().cpu().double().numpy()
        self._search.tell(list(zip(points, ranked.tolist(), strict=True)))
        if self._search.should_stop():
            self.restarts += 1
            self._search = self._made()
        self.number += 1
        self.evaluations += len(probes)
        self._asked = None
        diagnostics = {
            "spread": float(self._search._sigma),
            "samples": float(len(probes)),
            "restarts": float(self.restarts),
        }
        lost = int(told.logical_not().sum())
        return Step(self.number, self.evaluations, None, self.best_value, self.best_point, lost, diagnostics)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the package's object holds, and the best so far."""
        return {
            "search": {name: _plain(value) for name, value in vars(self._search).items()},
            "best_value": self.best_value,
            "best_point": self.best_point.clone(),
            "number": self.number,
            "evaluations": self.evaluations,
            "restarts": self.restarts,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave, between two steps."""
        self.best_value, self.best_point = state["best_value"], state["best_point"].clone()
        self.number, self.evaluations, self.restarts = state["number"], state["evaluations"], state["restarts"]
        self._search = self._made()
        for name, value in state["search"].items():
            setattr(self._search, name, _own(value))
        self._asked = None

    def _made(self) -> Any:
        """The package's object: at first, and again at every restart with twice the points."""
        import cmaes  # here, for most runs never need it

        parameters, d = self.parameters, self.parameters.dimension
        sides = torch.stack([parameters.lower, parameters.upper], 1).cpu().double().numpy()
        samples = self.samples or 4 + int(3 * np.log(d))
        search = (cmaes.SepCMA if self.separable else cmaes.CMA)(
            mean=parameters.clip(parameters.initial).cpu().double().numpy().copy(),
            sigma=self.spread,
            bounds=None if np.isinf(sides).all() else sides,
            n_max_resampling=100 if d <= MOST_TRIES and not parameters.fixed.any() else 0,
            seed=(self.seed + self.restarts) % 2**32,
            population_size=samples * 2**self.restarts,
        )
        search._funhist_values.fill(0.0)  # it is not, and two runs of one configuration must begin alike
        return search


def _plain(value: Any) -> Any:
    """What the package holds, as tensors, numbers and containers of them."""
    if isinstance(value, np.random.RandomState):
        state = value.get_state(legacy=False)
        words = torch.from_numpy(state["state"]["key"].astype(np.int64))  # torch cannot save unsigned ones everywhere
        return {**state, "state": {**state["state"], "key": words}}
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    return value.item() if isinstance(value, np.generic) else value


def _own(value: Any) -> Any:
    if isinstance(value, Mapping):
        generator = np.random.RandomState()
        generator.set_state({**value, "state": {**value["state"], "key": value["state"]["key"].numpy()}})
        return generator
    return value.numpy().copy() if isinstance(value, torch.Tensor) else value
