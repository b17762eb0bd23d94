"""Promises that any estimator keeps, surrogates too."""

import copy
import random
from typing import cast

import numpy as np
import torch

from zograd._errors import GradientError
from zograd.estimators import GradientEstimator
from zograd.testing._trial import Trial, evaluate, text


def _price(trial: Trial) -> None:
    estimator = cast(GradientEstimator, trial.fresh())
    rows, price = len(estimator.propose(trial.center(), trial.generator())), estimator.evaluations(trial.dimension)
    if rows != price:
        trial.fail("price", f"evaluations({trial.dimension}) is {price} but {rows} rows are proposed")


def _dtype(trial: Trial) -> None:
    for dtype in (torch.float32, torch.float64):
        estimator = cast(GradientEstimator, trial.fresh())
        probes = estimator.propose(trial.center(dtype=dtype), trial.generator())
        gradient = estimator.gradient(probes, evaluate(trial.linear, probes)).gradient
        for name, found in (("gradient", gradient), ("probes' centre", probes.center), ("points", probes.points())):
            if found.dtype != dtype:
                trial.fail("dtype", f"the centre is {dtype} but the {name} {found.dtype}")
        if gradient.shape != (trial.dimension,):
            trial.fail("dtype", f"the gradient has shape {tuple(gradient.shape)}, expected ({trial.dimension},)")


def _untouched(trial: Trial) -> None:
    estimator, center = cast(GradientEstimator, trial.fresh()), trial.center()
    kept, before = center.clone(), _global_state()
    probes = estimator.propose(center, trial.generator())
    values = evaluate(trial.linear, probes)
    told = values.clone()
    estimator.gradient(probes, values)
    if not torch.equal(center, kept):
        trial.fail("purity", f"the centre was {text(kept)} and is now {text(center)}")
    if not torch.equal(values, told):
        trial.fail("purity", "the values were written to")
    changed = [name for name, state in _global_state().items() if state != before[name]]
    if changed:
        trial.fail("purity", f"the global generator of {', '.join(changed)} was used; draw from the one that is given")


def _global_state() -> dict[str, object]:
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002 - the legacy generator is the one to leave alone
    return {
        "torch": torch.get_rng_state().tolist(),
        "NumPy": (numpy_state["state"]["key"].tolist(), numpy_state["state"]["pos"]),
        "Python": random.getstate(),
    }


def _seeded(trial: Trial) -> None:
    first, second = (
        cast(GradientEstimator, trial.fresh()).propose(trial.center(), trial.generator(5)).points() for _ in range(2)
    )
    if not torch.equal(first, second):
        trial.fail(
            "purity", f"generators with the same seed give probes {float((first - second).abs().max()):.3g} apart"
        )


def _pieces(trial: Trial) -> None:
    estimator = cast(GradientEstimator, trial.fresh())
    probes = estimator.propose(trial.center(), trial.generator())
    whole = evaluate(trial.linear, probes)
    expected = copy.deepcopy(estimator).gradient(probes, whole).gradient
    for rows in (1, 3, len(probes)):
        pieces = [evaluate(trial.linear, piece) for piece in reversed(list(probes.split(rows)))]
        found = copy.deepcopy(estimator).gradient(probes, torch.cat(pieces[::-1])).gradient
        if float((found - expected).norm()) > 64 * trial.rounding(probes, whole):
            trial.fail(
                "purity",
                f"evaluated {rows} rows at a time the gradient is {text(found)}, at once it is {text(expected)}",
            )


def _state(trial: Trial) -> None:
    estimator, second = cast(GradientEstimator, trial.fresh()), cast(GradientEstimator, trial.fresh())
    for salt in range(3):
        probes = estimator.propose(trial.center(salt), trial.generator(salt))
        estimator.gradient(probes, evaluate(trial.linear, probes))
    second.load_state_dict(copy.deepcopy(estimator.state_dict()))
    found, expected = (e.propose(trial.center(), trial.generator(7)).points() for e in (second, estimator))
    if found.shape != expected.shape or not torch.equal(found, expected):
        trial.fail("state", "after load_state_dict(state_dict()) the next probes differ from the original's")


def _all_lost(trial: Trial) -> None:
    estimator = cast(GradientEstimator, trial.fresh())
    probes = estimator.propose(trial.center(), trial.generator())
    try:
        found = estimator.gradient(probes, torch.full((len(probes),), torch.nan, dtype=torch.float64)).gradient
    except GradientError:
        return
    trial.fail("lost rows", f"with every row NaN the gradient is {text(found)}, expected a GradientError")


PROMISES = (_price, _dtype, _untouched, _seeded, _pieces, _state, _all_lost)
"""What every estimator keeps."""
