"""The mean over the directions that came back: shared by the estimators that average."""

import numpy as np
import torch
from torch import Tensor

from zograd._arrays import array, tensor_like
from zograd._checks import require
from zograd._errors import GradientError
from zograd._probes import Probes
from zograd._typing import Values, Vector, Weights


def scalars(probes: Probes, values: Values) -> Weights:
    """``values`` as one number a row."""
    require(
        values.shape == (len(probes),),
        "values",
        f"hold one number for each of the {len(probes)} rows",
        values,
        "A gradient is that of one number: reduce the outputs to a loss first.",
    )
    return values.detach()


def lost(values: Values) -> float:
    """The rows that did not come back as finite numbers."""
    return float(np.count_nonzero(~np.isfinite(array(values))))


def mean_of_finite(values: Tensor) -> float | None:
    """The mean of the finite entries, or ``None`` when there is none."""
    finite = np.isfinite(array(values))
    kept = values if finite.all() else values[torch.from_numpy(finite).to(values.device)]
    return float(kept.mean()) if len(kept) else None


def mean_of_others(values: Weights) -> Weights:
    """For each row the mean of the other finite rows: independent of the row, so that subtracting it adds no bias."""
    finite = values.isfinite()
    kept = values.where(finite, torch.zeros_like(values))
    return (kept.sum() - kept) / (finite.sum() - 1)


def average(probes: Probes, factors: Weights, block: int | None = None) -> tuple[Vector, float | None]:
    r"""The mean of ``factors[k] * offset[k]`` over the finite factors, and its expected squared error.

    With :math:`v_k = c_k o_k` the m contributions that came back and :math:`g` their mean, the squared error of
    independent ones is :math:`\sum_k \lVert v_k - g \rVert^2 / (m (m - 1))`. Directions that are orthogonal in
    blocks of d are drawn without replacement: a block of m_b leaves out the share :math:`1 - m_b / d` of the
    space, hence :math:`\sum_b (1 - m_b / d) \sum_{k \in b} \lVert v_k \rVert^2 / m^2`.

    Args:
        probes: One row a direction.
        factors: Shape (m,), NaN where an evaluation was lost.
        block: The number of directions that are mutually orthogonal, or ``None`` for independent ones.

    Raises:
        GradientError: When no factor is finite.
    """
    weights = array(factors)
    finite = np.isfinite(weights)
    kept = int(np.count_nonzero(finite))
    if kept == 0:
        raise GradientError(
            f"no gradient can be told: each of the {len(factors)} directions lost an evaluation that it needs. "
            "Check that the program runs at the centre, look closer to it, or take more samples."
        )
    weights = np.where(finite, weights, 0)
    gradient = probes.weighted_sum(tensor_like(weights / kept, factors))
    squares = np.square(weights) * array(probes.offsets.squared_norms(probes.center).to(factors))
    if block is not None:
        starts = np.arange(0, len(weights), block)
        survivors, sums = np.add.reduceat(finite, starts, dtype=int), np.add.reduceat(squares, starts)
        error = float(((1 - survivors / block) * sums).sum()) / kept**2
        return gradient, error if error > 0 else None
    if kept == 1:
        return gradient, None
    error = (float(squares.sum()) / kept - float(gradient.double().square().sum())) / (kept - 1)
    return gradient, max(error, 0.0)
