"""One sample of a gradient is NaN: what is left of the gradient, in libraries that estimate one."""

from collections.abc import Callable
from typing import Any

import numpy as np

DIMENSION, FAULTY_CALL, STEPS = 10, 4, 300
POINT = np.linspace(1.0, 2.0, DIMENSION)
TRUE = 2 * POINT


class OnceNaN:
    """The sum of squares, NaN at one call.

    Args:
        call: Which.
    """

    def __init__(self, call: int) -> None:
        self.call, self.calls = call, 0

    def __call__(self, x: Any, **_: Any) -> float:
        """The value."""
        self.calls += 1
        return float("nan") if self.calls == self.call else float(np.square(np.asarray(x)).sum())


def _zograd(name: str, **given: Any) -> Callable[[OnceNaN], np.ndarray]:
    def gradient(fun: OnceNaN) -> np.ndarray:
        import torch

        import zograd as zo

        point = torch.tensor(POINT, requires_grad=True)
        zo.differentiable(fun, estimator=getattr(zo, name)(**given), seed=0)(point).backward()
        return point.grad.numpy()

    return gradient


def scipy(fun: OnceNaN) -> np.ndarray:
    from scipy.optimize import approx_fprime

    return approx_fprime(POINT, fun)


def numdifftools(fun: OnceNaN) -> np.ndarray:
    import numdifftools as nd

    return nd.Gradient(fun)(POINT)


def noisyopt(fun: OnceNaN) -> np.ndarray:
    from noisyopt import minimizeSPSA

    points = [POINT.copy()]
    minimizeSPSA(
        fun, POINT.copy(), a=0.01, c=0.01, niter=STEPS, paired=False, callback=lambda x: points.append(x.copy())
    )
    return points[-1]


def spsa(fun: OnceNaN) -> np.ndarray:
    import spsa

    return np.asarray(spsa.minimize(fun, POINT.copy(), iterations=STEPS))


GRADIENTS: dict[str, tuple[Callable[[OnceNaN], np.ndarray], str, str]] = {
    "zograd RandomGradient, 20 samples": (_zograd("RandomGradient", samples=20), "zograd", "gradient"),
    "zograd CoordinateGradient": (_zograd("CoordinateGradient"), "zograd", "gradient"),
    "SciPy approx_fprime": (scipy, "scipy", "gradient"),
    "numdifftools Gradient": (numdifftools, "numdifftools", "gradient"),
    "noisyopt SPSA": (noisyopt, "noisyopt", "point"),
    "spsa": (spsa, "spsa", "point"),
}
"""Each with its package and what comes back: a gradient, or the point that an optimiser ended at."""


def left_of(name: str) -> tuple[str, str]:
    """What came back with the NaN and without: how much is finite, and whether it is any good."""
    with_nan, without = (_judged(GRADIENTS[name][0](OnceNaN(call)), GRADIENTS[name][2]) for call in (FAULTY_CALL, -1))
    return with_nan, without


def _judged(found: Any, kind: str) -> str:
    found = np.asarray(found, dtype=float).ravel()
    finite = int(np.isfinite(found).sum())
    if finite < DIMENSION:
        return f"{DIMENSION - finite} of {DIMENSION} entries NaN"
    if kind == "gradient":
        return f"cosine with the true gradient {found @ TRUE / np.linalg.norm(found) / np.linalg.norm(TRUE):.3f}"
    return f"{100 * np.linalg.norm(found) / np.linalg.norm(POINT):.3g} % of the distance left after {STEPS} steps"
