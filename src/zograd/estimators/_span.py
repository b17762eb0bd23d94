"""A linear model in the span of past directions: ridge regression through their Gram matrix."""

from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from zograd.estimators._replay import Array

DECAYS = (0.0, 0.5, 0.8, 0.95, 1.0)
"""How much of a slope's weight is left one gradient later: the memory that foretells new slopes best is taken."""
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

    where :math:`\rho` and :math:`\lambda` are those of the candidates that foretold the latest slopes best, before
    these were fitted. Memory O(window x d), arithmetic O(samples x window x d) a gradient.

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
        kept, total = self._kept, float(np.square(slopes).sum())
        if not kept or total == 0.0:
            return None
        cross = (rows @ self.rows[:kept].T).astype(np.float64)
        weights = np.stack([self._weights(*candidate) for candidate in CANDIDATES], 1)
        misses = np.square(cross @ weights - slopes[:, None]).sum(0) / total
        foretold = 1 - float(misses[self._scores.argmin()])
        self._scores = SCORE * self._scores + (1 - SCORE) * np.minimum(misses, 4.0)
        return foretold

    def add(self, rows: NDArray[np.float32], slopes: Array) -> None:
        """Take in new directions, (q, d), with their slopes; the oldest make room."""
        rows, slopes = rows[-self.window :], slopes[-self.window :]
        self._ages[: self._kept] += 1
        slots = (self._next + np.arange(len(rows))) % self.window
        self.rows[slots], self._slopes[slots], self._ages[slots] = rows, slopes, 0.0
        self._next, self._kept = (self._next + len(rows)) % self.window, min(self._kept + len(rows), self.window)
        cross = (rows @ self.rows[: self._kept].T).astype(np.float64)
        self._gram[slots, : self._kept] = cross
        self._gram[: self._kept, slots] = cross.T

    def gradient(self) -> NDArray[np.float32]:
        """The gradient that the best memory tells; zero where nothing is known yet."""
        if not self._kept:
            return np.zeros(self.rows.shape[1], np.float32)
        weights = self._weights(*CANDIDATES[int(self._scores.argmin())])
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

    def _weights(self, decay: float, ridge: float) -> Array:
        """How much each kept direction counts in the gradient."""
        gram = self._gram[: self._kept, : self._kept]
        # What is about to be foretold is one gradient younger than the youngest kept.
        root = np.sqrt(np.maximum(decay ** self._ages[: self._kept], FAINTEST))
        matrix = gram * np.outer(root, root)
        matrix.flat[:: len(matrix) + 1] += ridge * float(gram.diagonal().mean())
        weights: Array = root * np.linalg.solve(matrix, root * self._slopes[: self._kept])
        return weights
