"""Land a rocket whose engines are either on or off."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import zograd as zo
from zograd.problems._arguments import whole
from zograd.problems._drawing import chart
from zograd.problems._problem import Picture, Problem

GRAVITY, THRUST, TURN = 4.0, 9.0, 0.8
"""In m/s^2, m/s^2 along the rocket, and rad/s^2."""
TIME, TICK = 12.0, 0.05
"""Seconds of flight, and of one step of the simulation."""
DEPARTURE = (-30.0, 60.0, 9.0, -4.0, 0.35, 0.0)
"""Place (m), velocity (m/s), lean (rad) and its rate (rad/s) at the start."""
TOLERANCE = np.array([2.0, 2.0, 1.0, 1.0, 0.1, 0.2])
"""What counts as one: of place, velocity, lean and its rate."""

Flight = NDArray[np.float64]


def rocket(bursts: int = 20) -> Problem:
    r"""Land a rocket whose engines are either on or off.

    .. math:: f(x) = \frac16 \sum_{j=1}^{6} \left( \frac{s_j(x)}{\text{tolerance}_j} \right)^2

    with s the state in which the rocket touches the ground, or in which it is when time is over: how far from the pad
    and how high (2 m), velocity (1 m/s both ways), lean (0.1 rad) and its rate (0.2 rad/s). A value below one is a
    soft, upright landing on the pad. Twelve seconds are divided into as many bursts as is said. For each there is the
    share of its time for which the engine burns, and the share for which the jets turn the rocket (to the left where it
    is negative), both from the beginning of the burst and in whole ticks of the simulation: an engine is on or off. The
    derivative is therefore zero wherever it exists.

    **Cost**: one flight of 240 steps an evaluation; a batch of a hundred takes little longer than one.

    Args:
        bursts: How many bursts there are, half the number of parameters.

    Raises:
        ArgumentError: When there are too few or too many.
    """
    whole("bursts", bursts, 2, 200, "More bursts steer more finely; try 20.")

    def residuals(points: dict[str, Any]) -> Tensor:
        flights = flown(np.asarray(points["engine"]), np.asarray(points["jets"]))
        return torch.from_numpy(flights[:, -1] / TOLERANCE)

    def draw(point: dict[str, Any], size: int) -> Picture:
        flight = flown(np.asarray(point["engine"])[None], np.asarray(point["jets"])[None])[0]
        return chart(size, lambda axes: _plot(axes, flight, np.asarray(point["engine"])))

    return Problem(
        name="rocket",
        summary="land a rocket whose engines are either on or off",
        fun=zo.batched(lambda points: residuals(points).square().mean(1)),
        residuals=zo.batched(residuals),
        x0={"engine": np.full(bursts, 0.4), "jets": np.zeros(bursts)},
        bounds={"engine": (0.0, 1.0), "jets": (-1.0, 1.0)},
        loss="squared error of the landing",
        evaluations=15_000,
        draw=draw,
        details={"parameters": str(2 * bursts), "steps of a flight": str(round(TIME / TICK))},
    )


def flown(engine: NDArray[Any], jets: NDArray[Any]) -> Flight:
    """The states of n flights, shape (n, steps + 1, 6); a rocket that touches the ground stays as it was then.

    Args:
        engine: The share of each burst for which it burns, shape (n, bursts).
        jets: The same of the jets, with the sign of the turn, shape (n, bursts).
    """
    push, turn = THRUST * valves(engine), TURN * np.sign(jets[:, _bursts(jets)]).T * valves(np.abs(jets))
    state = np.repeat(np.array(DEPARTURE)[:, None], len(engine), 1)
    flight = np.empty((len(push) + 1, *state.shape))
    flight[0] = state
    for step in range(len(push)):
        lean = state[4]
        force = np.stack([push[step] * np.sin(lean), push[step] * np.cos(lean) - GRAVITY])
        after = np.empty_like(state)
        after[2:4] = state[2:4] + TICK * force
        after[5] = state[5] + TICK * turn[step]
        after[[0, 1, 4]] = state[[0, 1, 4]] + TICK * after[[2, 3, 5]]
        # What is on the ground stays there: the height of the state before is what the last step left above it.
        state = np.where(state[1] <= 0, state, after)
        flight[step + 1] = state
    return flight.transpose(2, 0, 1)


def valves(shares: NDArray[Any]) -> Flight:
    """Whether a valve is open at each tick, 1 or 0: shares of shape (n, bursts) to (steps, n)."""
    bursts = _bursts(shares)
    ticks = np.arange(len(bursts)) + 0.5
    phase = ticks * shares.shape[1] / len(bursts) - bursts
    return np.where(phase[:, None] < shares[:, bursts].T, 1.0, 0.0)


def _bursts(shares: NDArray[Any]) -> NDArray[np.int64]:
    """The burst that each tick belongs to."""
    steps = round(TIME / TICK)
    return np.arange(steps, dtype=np.int64) * int(shares.shape[1]) // steps


def _plot(axes: Any, flight: Flight, burns: NDArray[Any]) -> None:
    """The way of the rocket, and how it stood every half second."""
    axes.axhspan(-8, 0, color="#c9b79c")
    axes.plot([-5, 5], [0, 0], color="#d1495b", lw=6, solid_capstyle="butt")
    axes.plot(*flight[:, :2].T, color="#8090a0", lw=1, ls=":")
    steps = len(flight) - 1
    for step in range(0, steps + 1, 10):
        x, y, _, _, lean, _ = flight[step]
        along = np.array([np.sin(lean), np.cos(lean)])
        nose, tail = np.array([x, y]) + 6 * along, np.array([x, y])
        if step < steps and y > 0:
            flame = 8 * burns[step * len(burns) // steps]
            axes.plot(*np.stack([tail, tail - flame * along]).T, color="#f0a030", lw=2.5)
        axes.plot(*np.stack([tail, nose]).T, color="#22303c", lw=4, solid_capstyle="round")
    axes.set(xlim=(-45, 45), ylim=(-8, 75), aspect="equal", xlabel="metres", ylabel="height")
