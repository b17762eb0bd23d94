"""Rule zero: the gradient has the right size. One function says so of any estimator, yours too."""

from collections.abc import Sequence

from zograd.estimators import GradientEstimator
from zograd.testing._promises import PROMISES
from zograd.testing._right_size import RIGHT_SIZE
from zograd.testing._surrogates import check_surrogate
from zograd.testing._trial import Rescale, Trial


def assert_conforms(
    estimator: GradientEstimator,
    *,
    dimension: int = 6,
    order: int = 1,
    active: Sequence[int] | None = None,
    rescale: Rescale | None = None,
    seed: int = 0,
    surrogate: bool = False,
    level_free: bool = True,
) -> None:
    r"""Raise unless the estimator's gradient has the right size, and the estimator keeps its promises.

    It is checked, with f evaluated in this process in float64 unless said otherwise, that

    - **right size**: on :math:`f(x) = a \cdot x` the mean gradient is a within 4 standard errors, in each entry and
      along a, at two centres and two steps three decades apart, and in float32;
    - **order of bias**: polynomials of degree 2 to ``order`` about the centre add nothing to the mean gradient, and
      one of degree ``order + 1`` adds a share that falls as step^order;
    - **shift**: f + c has the gradient of f; **doubling**: 2 f has exactly twice the gradient;
    - **permutation**: renaming the coordinates renames the gradient's entries;
    - **lost rows**: with a random third of the rows NaN the right size holds (an entry of exactly zero says nothing);
      with all of them NaN a `GradientError` is raised;
    - **price**: ``evaluations(d)`` is the number of rows proposed;
    - **purity**: the centre and the global generators of torch, NumPy and Python are untouched; a generator with the
      same seed gives the same probes; rows evaluated in pieces and out of order give the same gradient;
    - **state**: a second estimator that takes ``state_dict`` proposes the same probes next;
    - **dtype**: gradient and probes have the centre's, float32 or float64.

    Of a **surrogate**, which is biased by design and learns, the first three and "lost rows" are asked otherwise, on a
    quadratic whose gradient no blur changes:

    - **cosine**: at one place, visited again and again, the cosine with the true gradient reaches .8, and is not lower
      than at first; in float32 too;
    - **lost rows**: with a random third NaN it falls by no more than .1, and the length stays;
    - **permutation**: with renamed coordinates it is the same within .1;
    - **descent**: steps along the gradients leave less than half of the excess over the minimum;
    - **state**: an estimator that takes ``state_dict`` tells the same gradients next, bit for bit;
    - **shift** and **doubling**, if ``level_free``: on f + 100 and on 100 f the cosine falls by no more than .1.

    Gradients are repeated until 4 standard errors are 30 % of the truth or less: about 100 times for 16 directions.
    The outcome follows from ``seed`` alone; an honest estimator fails for fewer than one seed in a hundred.

    Args:
        estimator: What is tested. It is copied first, so that it learns nothing here.
        dimension: The number of parameters, d.
        order: The power of the step with which the bias falls: 1 for one-sided differences along fixed axes, 2 for
            central differences and for directions that are symmetric. Ignored for an estimator without a step,
            whose gradient must be unbiased.
        active: The coordinates that the estimator speaks of: all by default; the other entries must be zero.
        rescale: ``rescale(estimator, factor)``: the same estimator with its step times the factor. By default a
            dataclass's field ``step`` or ``spread`` is replaced; with neither there is no step to vary. Steps that
            differ between coordinates are not invariant under permutation: test such an estimator with equal ones.
        seed: Of every random number drawn here.
        surrogate: Whether the estimator learns, and answers to the contract of surrogates. ``order`` and ``active``
            say nothing then.
        level_free: Whether a surrogate should take any level and scale of the values.

    Raises:
        AssertionError: With the first property that fails, and its numbers.

    Example:
        >>> import zograd as zo
        >>> from zograd.testing import assert_conforms
        >>> assert_conforms(zo.CoordinateGradient(step=1e-3), order=2)
    """
    trial = Trial(estimator, dimension, order, list(range(dimension) if active is None else active), rescale, seed)
    for check in (*PROMISES, *(() if surrogate else RIGHT_SIZE)):
        check(trial)
    if surrogate:
        check_surrogate(trial, level_free)
