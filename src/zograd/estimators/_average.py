"""The mean over the directions that came back: shared by the estimators that average."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zograd._arrays import array, tensor_like
from zograd._checks import require
from zograd._errors import GradientError
from zograd._probes import Dense, Probes
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


def flat_words(values: int, name: str, now: float) -> str:
    """What to say where values are all the same, and to do; ``name`` is the setting that says how far probes reach."""
    return (
        f"all {values} values are equal: increase the {name} ({now:.3g} now), or start elsewhere. "
        "The program is flat as far as the probes reach, and tells no gradient."
    )


def half_cosine(rows: Any, factors: Any, block: int = 1) -> dict[str, float]:
    """The cosine between what two halves of the directions tell of the gradient; empty where there is none.

    Near 1 there are more samples than needed, near 0 the gradient is mostly chance. Directions that are orthogonal to
    one another are kept together, for between them the cosine is 0 whatever the function is.

    Args:
        rows: Directions, shape (q, d), in torch or NumPy.
        factors: How much each counts, shape (q,), of the same kind.
        block: The number of directions that are mutually orthogonal.
    """
    middle = -(-len(rows) // (2 * block)) * block
    if not 0 < middle < len(rows):
        return {}
    one, other = factors[:middle] @ rows[:middle], factors[middle:] @ rows[middle:]
    size = (float(one @ one) * float(other @ other)) ** 0.5
    return {"half_cosine": float(one @ other) / size} if 0 < size < math.inf else {}


def average(
    probes: Probes, factors: Weights, block: int | None = None
) -> tuple[Vector, float | None, dict[str, float]]:
    r"""The mean of ``factors[k] * offset[k]`` over the finite factors, its expected squared error, and `half_cosine`.

    With :math:`v_k = c_k o_k` the m contributions that came back and :math:`g` their mean, the squared error of
    independent ones is :math:`\sum_k \lVert v_k - g \rVert^2 / (m (m - 1))`. Directions that are orthogonal in
    blocks of d are drawn without replacement: a block of m_b leaves out the share :math:`1 - m_b / d` of the
    space, hence :math:`\sum_b (1 - m_b / d) \sum_{k \in b} \lVert v_k \rVert^2 / m^2`. Directions that are drawn again
    from seeds tell no cosine: it would cost as much as the gradient, and the squared error says the same.

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
    shares = tensor_like(weights / kept, factors)
    gradient = probes.weighted_sum(shares)
    agreement: dict[str, float] = {}
    if isinstance(probes.offsets, Dense):
        agreement = half_cosine(probes.offsets.rows.to(gradient), shares.to(gradient), block or 1)
    squares = np.square(weights) * array(probes.offsets.squared_norms(probes.center).to(factors))
    if block is not None:
        starts = np.arange(0, len(weights), block)
        survivors, sums = np.add.reduceat(finite, starts, dtype=int), np.add.reduceat(squares, starts)
        error = float(((1 - survivors / block) * sums).sum()) / kept**2
        return gradient, error if error > 0 else None, agreement
    if kept == 1:
        return gradient, None, agreement
    error = (float(squares.sum()) / kept - float(gradient.double().square().sum())) / (kept - 1)
    return gradient, max(error, 0.0), agreement
