"""A linear model in the span of past directions: ridge regression through their Gram matrix."""

from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from zograd.estimators._replay import Array

DECAYS = (0.0, 0.5, 0.8, 0.95, 1.0)
"""How much of a slope's weight is left one gradient later; taken is what foretells each new slope best."""
RIDGES = (1e-3, 1.0)
"""Candidates for the ridge, in units of the squared length of a direction."""
CANDIDATES = [(decay, ridge) for decay in DECAYS for ridge in RIDGES]
SCORE = 0.8
"""The weight of earlier forecasts when memories are compared."""
FAINTEST = 1e-6
"""The least weight of a slope, so that numbers stay finite."""


@final
class Span:
    r"""Slopes along past directions, and the shortest gradient that explains them.

    With directions :math:`u_k` as rows of U, slopes :math:`y_k` and ages :math:`a_k` in gradients,

    .. math:: g = U^\top (U U^\top + \lambda D)^{-1} y, \qquad D_{kk} = \rho^{-a_k}

    where :math:`\rho` and :math:`\lambda` are those of the candidates that foretell the latest slopes best, each from
    all others (leave one out). Memory O(window x d), arithmetic O(samples x window x d) a gradient.

    Args:
        window: The most directions that are kept.
        dimension: Their length, d.
    """

    def __init__(self, window: int, dimension: int) -> None:
        self.window = window
        self.rows: NDArray[np.float32] = np.zeros((window, dimension), np.float32)
        self._slopes: Array = np.zeros(window)
        self._ages: Array = np.zeros(window)
        self._gram: Array = np.zeros((window, window))
        self._scores: Array = np.zeros(len(CANDIDATES))
        self._next = self._kept = 0

    def forecast(self, rows: NDArray[np.float32], slopes: Array) -> float | None:
        """R^2 on the slopes along new directions before they are fitted; ``None`` where nothing is known yet."""
        total = float(np.square(slopes).sum())
        if not self._kept or total == 0.0:
            return None
        return 1 - float(np.square(rows @ self.gradient() - slopes).sum()) / total

    def add(self, rows: NDArray[np.float32], slopes: Array) -> None:
        """Take in new directions, (q, d), with their slopes; the oldest make room; judge the memories anew."""
        rows, slopes = rows[-self.window :], slopes[-self.window :]
        self._ages[: self._kept] += 1
        slots = (self._next + np.arange(len(rows))) % self.window
        self.rows[slots], self._slopes[slots], self._ages[slots] = rows, slopes, 0.0
        self._next, self._kept = (self._next + len(rows)) % self.window, min(self._kept + len(rows), self.window)
        cross = (rows @ self.rows[: self._kept].T).astype(np.float64)
        self._gram[slots, : self._kept] = cross
        self._gram[: self._kept, slots] = cross.T
        total = float(np.square(slopes).sum())
        if total > 0:
            misses = [float(np.square(self._solved(*candidate, slots)[1]).sum()) for candidate in CANDIDATES]
            self._scores = SCORE * self._scores + (1 - SCORE) * np.minimum(np.array(misses) / total, 4.0)

    def gradient(self) -> NDArray[np.float32]:
        """The gradient that the best memory tells; zero where nothing is known yet."""
        if not self._kept:
            return np.zeros(self.rows.shape[1], np.float32)
        weights, _ = self._solved(*CANDIDATES[int(self._scores.argmin())], np.zeros(0, np.int64))
        gradient: NDArray[np.float32] = weights.astype(np.float32) @ self.rows[: self._kept]
        return gradient

    def state(self) -> dict[str, Any]:
        """Everything that the next gradient depends on."""
        arrays = {name: torch.from_numpy(getattr(self, name).copy()) for name in self._arrays}
        return {"next": self._next, "kept": self._kept, **arrays}

    def load(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self._next, self._kept = state["next"], state["kept"]
        for name in self._arrays:
            getattr(self, name)[:] = state[name].numpy()

    _arrays = ("rows", "_slopes", "_ages", "_gram", "_scores")

    def _solved(self, decay: float, ridge: float, judged: NDArray[np.int64]) -> tuple[Array, Array]:
        """How much each kept direction counts, and what all others but itself foretell wrongly of those judged."""
        gram, slopes = self._gram[: self._kept, : self._kept], self._slopes[: self._kept]
        root = np.sqrt(np.maximum(decay ** self._ages[: self._kept], FAINTEST))
        matrix = gram * np.outer(root, root)
        matrix.flat[:: len(matrix) + 1] += ridge * float(gram.diagonal().mean())
        right = np.zeros((self._kept, 1 + len(judged)))
        right[:, 0] = root * slopes
        right[judged, 1 + np.arange(len(judged))] = 1.0
        found = np.linalg.solve(matrix, right)
        # The residual that a ridge fit without a row leaves at it, from the fit with it.
        missed: Array = found[judged, 0] / found[judged, 1 + np.arange(len(judged))]
        return root * found[:, 0], missed
