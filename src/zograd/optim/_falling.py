"""How a rate falls over a budget, and what becomes of it where the budget is raised."""

import math

AGAIN = 0.25
"""Where a budget is raised, the rate begins again at this share of the first one: less gains little, more undoes."""
STRETCHES = 4
"""So often a doubling of the budget; then budgets of 1.25, 1.5, 2, 3 or 4 times the first one end where it is zero."""


def falling(done: int, planned: int) -> float:
    r"""The share of the first rate after ``done`` of ``planned`` steps: from 1 to 0, and again where there are more.

    .. math:: 1 - \frac{k}{T} \quad (k < T), \qquad
       \frac{1}{4 \cdot 2^{j / 2}} \left(1 - \Big(4\Big(\frac{k}{2^j T} - 1\Big) \bmod 1\Big)\right)
       \quad (2^j T \le k < 2^{j + 1} T)

    Beyond T it is a warm restart in stretches of T / 4, which double when T has doubled, each from a quarter of the
    rate with which a plan of :math:`2^j T` steps begins. It is a function of the steps that were made alone: what is on
    record stays as it is, whatever the budget has become.

    Args:
        done: Steps (or evaluations) made.
        planned: As many as the first budget paid for.

    References:
        - Loshchilov and Hutter, SGDR: stochastic gradient descent with warm restarts, ICLR 2017.
    """
    if done < planned:
        return 1 - done / planned
    octave, along = _stretch(done, planned)
    return AGAIN * 2 ** (-octave / 2) * (1 - along % 1)


def ended(done: int, planned: int) -> bool:
    """Whether the rate has just come to its end: after the steps that were planned, and after every stretch."""
    return done == planned or (done > planned and _place(done, planned) != _place(done - 1, planned))


def _stretch(done: int, planned: int) -> tuple[int, float]:
    """How often the plan has been doubled, and how many stretches of this doubling are over."""
    octave = math.frexp(done / planned)[1] - 1
    return octave, STRETCHES * (done / planned / 2**octave - 1)


def _place(done: int, planned: int) -> tuple[int, int]:
    octave, along = _stretch(done, planned)
    return octave, math.floor(along)
