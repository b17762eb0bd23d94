"""What the surrogates share: mirrored samples, numbers for the journal, plain words when there is nothing to see."""

import warnings
from abc import ABC, abstractmethod
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from zograd._checks import count, positive
from zograd._errors import GradientError, ZogradWarning
from zograd._probes import Probes
from zograd._typing import Values, Vector
from zograd.estimators._average import flat_words, scalars
from zograd.estimators._directions import scatter
from zograd.estimators._estimator import Estimate, GradientEstimator
from zograd.estimators._replay import Array

PATIENCE = 100
"""Gradients whose values the surrogate did not foretell on average, before that is said."""
RECENT = 0.97
"""The weight of what was foretold before in that average."""
FINE = 1e-2
"""A spread below this share of the first one has found its place: nothing is said any more."""
SPREAD_HINT = "It is the standard deviation of the samples: the width of what is to be smoothed away; try 0.1."


Kind = TypeVar("Kind", bound="Surrogate")


class Surrogate(GradientEstimator, ABC):
    """A gradient from a function that is fitted to samples around the centre, new and remembered ones.

    Rows: ``[+o_1 .. +o_q, -o_1 .. -o_q]``. All that is learned lies in `_memory`, which copies with another spread
    share.

    Attributes:
        spread: The standard deviation of the samples, in units of the parameters.
        samples: The number of offsets drawn.
    """

    spread: float
    samples: int
    _memory: dict[str, Any]

    def __post_init__(self) -> None:
        positive("spread", self.spread, SPREAD_HINT)
        count("samples", self.samples, hint="It is the number of mirrored pairs.")
        self._memory = {"judged": 0, "explained": 0.0, "warned": (), "first": self.spread}

    def with_spread(self: "Kind", spread: float) -> "Kind":
        """The same surrogate, with the same memory, that looks ``spread`` far."""
        other = object.__new__(type(self))
        vars(other).update(vars(self))  # as copy.copy does, ten times as fast
        other.spread = positive("spread", spread, SPREAD_HINT)
        return other

    def propose(self, center: Vector, generator: torch.Generator) -> Probes:
        """Gaussian offsets and their mirror images."""
        scale = torch.full((self.samples,), self.spread, dtype=center.dtype)
        return Probes(center.detach(), scatter("gaussian", scale, center, generator, mirrored=True))

    def gradient(self, probes: Probes, values: Values) -> Estimate:
        """The surrogate's gradient, with what it foretold of the new values before it saw them.

        Raises:
            GradientError: When too much was lost.
        """
        told = scalars(probes, values).cpu().double().numpy()
        kept = np.isfinite(told)
        found = int(np.count_nonzero(kept))
        if not found:
            raise GradientError(
                f"no gradient can be told: all {len(values)} evaluations were lost. Check that the program runs at the "
                "centre, or make the spread smaller."
            )
        numbers = {"lost": float(len(told) - found), "spread": self.spread}
        known = told if found == len(told) else told[kept]
        self._look(known)
        estimate = self._learn(probes, told, kept)
        explained = estimate.diagnostics.get("r_squared")
        # Far within the first spread what is left is rounding.
        if explained is not None and self.spread >= FINE * self._memory["first"]:
            self._judge(explained, probes.dimension)
        level = float(known.sum()) / found if estimate.value is None else estimate.value
        return Estimate(
            estimate.gradient, estimate.squared_error, level, estimate.curvature, {**numbers, **estimate.diagnostics}
        )

    def evaluations(self, dimension: int) -> int:
        """``2 samples``, whatever the dimension."""
        return 2 * self.samples

    _explains_up_to = 16
    """Where there are more parameters, few samples foretell little and nothing is wrong."""

    @abstractmethod
    def _learn(self, probes: Probes, told: Array, kept: NDArray[np.bool_]) -> Estimate:
        """The estimate, after taking in the values, of which at least one is finite (``kept``)."""

    def _judge(self, explained: float, dimension: int) -> None:
        """Warn of a surrogate that explains nothing."""
        m = self._memory
        m["judged"] += 1
        m["explained"] = RECENT * m["explained"] + (1 - RECENT) * max(explained, -1.0)
        if m["judged"] >= PATIENCE and m["explained"] <= 0 and dimension <= self._explains_up_to:
            self._say(
                "unexplained",
                f"{type(self).__name__} foretold nothing of the values of {m['judged']} gradients: the program is "
                f"noise or structure at a distance of {self.spread:.3g}. Try another spread, more samples, or "
                "zo.SmoothedGradient, which models nothing.",
            )

    def _look(self, told: Array) -> None:
        """Warn of a flat landscape."""
        if len(told) > 1 and bool((told == told[0]).all()):
            self._say("flat", flat_words(len(told), "spread", self.spread))

    def _say(self, what: str, words: str) -> None:
        """Warn once a run."""
        if what not in self._memory["warned"]:
            self._memory["warned"] = (*self._memory["warned"], what)
            warnings.warn(words, ZogradWarning, stacklevel=2)

    def _common_state(self) -> dict[str, Any]:
        return {name: self._memory[name] for name in ("judged", "explained")} | {"warned": list(self._memory["warned"])}

    def _load_common(self, state: dict[str, Any]) -> None:
        self._memory |= {"judged": state["judged"], "explained": state["explained"], "warned": tuple(state["warned"])}


def foretold(guesses: Array, told: Array) -> dict[str, float]:
    """The share of the scatter of new values that was foretold of them; empty where all are equal."""
    above, left = told - told.sum() / len(told), guesses - told
    total = float(above @ above)
    return {"r_squared": 1 - float(left @ left) / total} if total > 0 else {}


def pairs(probes: Probes, told: Array) -> tuple[NDArray[np.float32], Array]:
    """The offsets of the whole pairs, shape (q, d), and half the difference of their values, shape (q,).

    Raises:
        GradientError: When every pair has lost a half.
    """
    samples = len(told) // 2
    half = (told[:samples] - told[samples:]) / 2
    whole = np.isfinite(half)
    if not whole.any():
        raise GradientError(
            f"no gradient can be told: each of the {len(half)} pairs lost an evaluation. Check that the program runs "
            "at the centre, make the spread smaller, or take more samples."
        )
    rows = probes.offsets[:samples].dense(probes.center).cpu().float().numpy()
    return (rows, half) if whole.all() else (rows[whole], half[whole])
