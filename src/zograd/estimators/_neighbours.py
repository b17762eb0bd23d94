"""A plane through the nearest of all past samples."""

import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from zograd._checks import count
from zograd._probes import Probes
from zograd.estimators._average import half_cosine
from zograd.estimators._estimator import Estimate
from zograd.estimators._replay import Array, Replay
from zograd.estimators._surrogate import Surrogate, foretold, pairs

RIDGE = 1e-9
"""In units of the mean squared distance: fewer neighbours than parameters then tell the shortest gradient."""
MOST, LEAST, ENTRIES = 1024, 128, 2**17
"""Samples that are remembered by default: with many parameters fewer, for each takes so many numbers."""


@final
@dataclass(eq=False)
class NearestNeighbourGradient(Surrogate):
    r"""Nearest-neighbour gradient: a local linear fit to the nearest past samples (Ausset, Clémençon, Portier).

    .. math:: \min_{a, g} \sum_{i \in N_k(x)} \big(f_i - a - g \cdot (x_i - x)\big)^2, \qquad
       k = \max\big(n^{4 / (4 + d)},\ 2 d + 2\big)

    over the k nearest of the n samples that are remembered, old and new. Their distance is the bandwidth: the rule
    for k balances its bias, O(bandwidth), against the variance, O(1 / (k bandwidth^2)), as n grows; at least twice as
    many neighbours as coefficients are taken where there are that many. The paper adds an L1 penalty for programs in
    which few parameters matter; here there is none.

    **Cost**: ``2 samples`` evaluations. **Bias**: O(k-th distance) of a curved program, less where neighbours lie
    evenly around. **Variance**: s^2 d / (k bandwidth^2) for noise s. **When**: a few parameters, evaluations that
    are dear, and a centre that moves little, so that old samples stay near; a memory without any model to train.
    `PolynomialSurrogate` knows the curvature besides and is better on smooth programs.

    Args:
        spread: The standard deviation of the new samples, in units of the parameters.
        samples: The number of mirrored pairs a gradient.
        neighbours: How many are fitted, k; ``None`` for the rule.
        window: The most samples that are remembered; by default 1,024, and fewer beyond 128 parameters: as many as have
            2^17 entries, 128 at least.

    Raises:
        ArgumentError: When an argument is out of its range.

    Example:
        >>> import torch, zograd as zo
        >>> estimator = zo.NearestNeighbourGradient(samples=4)
        >>> probes = estimator.propose(torch.tensor([1.0, 2.0]).double(), torch.Generator().manual_seed(0))
        >>> estimator.gradient(probes, probes.points() @ torch.tensor([3.0, -1.0]).double()).gradient.round(decimals=3)
        tensor([ 3., -1.], dtype=torch.float64)

    References:
        - Ausset, Clémençon and Portier, Nearest neighbour based estimates of gradients: sharp nonasymptotic bounds and
          applications, AISTATS 2021 (arXiv:2006.15043).
        - Fan and Gijbels, Local polynomial modelling and its applications, 1996 (the local linear fit).
    """

    spread: float = 0.1
    samples: int = 8
    neighbours: int | None = None
    window: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.neighbours is not None:
            count("neighbours", self.neighbours, 2, "It is how many samples are fitted; leave it out for the rule.")
        if self.window is not None:
            count("window", self.window, 2, "It is how many samples are remembered; leave it out for a fitting size.")
        self._memory |= {"replay": None, "plane": None}

    def state_dict(self) -> dict[str, Any]:
        """The samples that are remembered."""
        replay, plane = self._memory["replay"], self._memory["plane"]
        if replay is None:
            return {}
        kept = None if plane is None else [torch.as_tensor(part) for part in plane]
        return {**self._common_state(), "replay": replay.state(), "plane": kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.__post_init__()
        if state:
            self._load_common(state)
            self._replay(state["replay"]["rows"].shape[1]).load(state["replay"])
            if state["plane"] is not None:
                here, level, slope = state["plane"]
                self._memory["plane"] = here.numpy(), float(level), slope.numpy()

    def _replay(self, dimension: int) -> Replay:
        replay: Replay | None = self._memory["replay"]
        if replay is None:
            room = max(LEAST, min(MOST, ENTRIES // dimension))
            replay = self._memory["replay"] = Replay(self.window or room)
        return replay

    def _learn(self, probes: Probes, told: Array, kept: NDArray[np.bool_]) -> Estimate:
        center = probes.center
        replay, last = self._replay(len(center)), self._memory["plane"]
        numbers = half_cosine(*pairs(probes, told)) if kept.all() else {}
        here = center.detach().cpu().double().numpy().copy()
        points = here + probes.offsets.dense(center).detach().cpu().double().numpy()[kept]
        told = told[kept]
        if last is not None:
            # The last plane, around the last centre: another around this one would cost as much as the one to come.
            there, level, slope = last
            numbers |= foretold(level + (points - there) @ slope, told)
        replay.add(points, told[:, None])
        level, slope, error, (used, radius) = self._plane(replay, here)
        self._memory["plane"] = here, level, slope
        numbers |= {"neighbours": float(used), "bandwidth": radius}
        return Estimate(torch.from_numpy(slope).to(center), error, level, None, numbers)

    def _plane(self, replay: Replay, here: Any) -> tuple[float, Any, float | None, tuple[int, float]]:
        """Value and slope here, the slope's squared error, and how many were fitted, the furthest so far away."""
        n, d = replay.rows.shape
        k = min(n, self.neighbours or max(math.ceil(n ** (4 / (4 + d))), 2 * d + 2))
        moved = replay.rows - here
        distances = np.einsum("ni,ni->n", moved, moved)
        near = np.argpartition(distances, k - 1)[:k] if k < n else slice(None)
        moved, told = moved[near], replay.numbers[near, 0]
        mean, level = moved.sum(0) / k, float(told.sum()) / k
        z, y = moved - mean, told - level
        ridge = RIDGE * k * (float(np.einsum("ni,ni->", z, z)) / z.size or 1.0)
        matrix = z.T @ z if k > d else z @ z.T
        matrix.flat[:: len(matrix) + 1] += ridge
        if k > d:
            inverse = np.linalg.inv(matrix)
            slope, spread = inverse @ (z.T @ y), float(np.trace(inverse))
        else:
            slope, spread = z.T @ np.linalg.solve(matrix, y), math.inf
        left = y - z @ slope
        spare = k - d - 1
        error = float(left @ left) / spare * spread if spare > 0 else None
        return level - float(mean @ slope), slope, error, (k, float(distances[near].max()) ** 0.5)
