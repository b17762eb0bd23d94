"""The seed of each evaluation: of its place in a run, or one that both sides of a mirrored pair share."""

import contextlib
import hashlib
import random
import struct
from collections.abc import Iterator
from typing import final

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from zograd._checks import count, instance
from zograd._errors import ArgumentError
from zograd._probes import Coordinates, Dense, Probes, Seeded
from zograd.blackbox import BlackBox
from zograd.blackbox._seed import evaluation_seed


@final
class Seeds:
    r"""Which seed an evaluation has: a function of the run's seed and of where in the run it is.

    Everybody who evaluates a row gives it the same seed, whenever that is, so that a resumed run finds the values it
    had. With **common random numbers** the two sides of a mirrored pair, :math:`x + o` and :math:`x - o`, have one seed
    between them, and every other evaluation its own: the noise that they share is not in their difference,

    .. math:: \operatorname{Var}\big[f(x + o) - f(x - o)\big] = 2 \sigma^2 (1 - \rho)

    with :math:`\rho` the correlation of the two values. The centre, evaluated twice to measure the noise, has two
    seeds, and points of different steps have different ones: what compares those sees all of the noise.

    Args:
        seed: The run's.
        common: Whether the two sides of a pair share theirs.

    References:
        - Kleinman, Spall and Naiman, Simulation-based optimization with stochastic approximation using common random
          numbers, Management Science 1999.
    """

    def __init__(self, seed: int = 0, common: bool = False) -> None:
        self.seed = count("seed", seed, least=0)
        self.common = instance("common_random_numbers", common, bool, "True or False")

    def must_fit(self, blackbox: BlackBox) -> None:
        """Refuse a program of many points where they are to share random numbers.

        Raises:
            ArgumentError: When it is one.
        """
        if self.common and blackbox.rows_per_call != 1:
            raise ArgumentError(
                f"`common_random_numbers` must be False for a program of many points at a time, found {blackbox!r}: "
                "one call has one stream of random numbers. Give a function of one point or a zo.Program, or draw the "
                "same numbers for every row inside.",
                argument="common_random_numbers",
                found=True,
            )

    def of(self, probes: Probes, call: int, first: int = 0) -> list[int]:
        """One seed for each row.

        Args:
            probes: Rows of a wave.
            call: Which wave of the run.
            first: Where in it the rows begin.
        """
        places = [struct.pack("<3q", self.seed, call, first + row) for row in range(len(probes))]
        if self.common:
            places = [place[:16] + line if line else place for place, line in zip(places, _lines(probes), strict=True)]
        return [_number(place) for place in places]


def _number(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") >> 1


def _lines(probes: Probes) -> list[bytes]:
    """What an offset has in common with its mirror image, row by row; nothing where it is the centre."""
    offsets = probes.offsets
    if isinstance(offsets, Coordinates):
        columns = torch.stack([offsets.index.double().cpu(), offsets.step.double().cpu().abs()], 1)
        return _bytes(columns, columns[:, 1] != 0)
    if isinstance(offsets, Seeded):
        columns = torch.stack([offsets.seed.cpu(), offsets.scale.cpu().double().abs().view(torch.int64)], 1)
        return _bytes(columns, offsets.scale.cpu() != 0)
    rows = (offsets if isinstance(offsets, Dense) else Dense(offsets.dense(probes.center))).dense(probes.center).cpu()
    moved = rows != 0
    ahead = rows.gather(1, moved.byte().argmax(1, keepdim=True)) > 0
    return _bytes(torch.where(ahead, rows, -rows) + 0.0, moved.any(1))  # + 0.0 makes zeros of -0.0


def _bytes(columns: Shaped[Tensor, "n k"], moved: Tensor) -> list[bytes]:
    rows = columns.contiguous().view(torch.uint8).numpy()
    return [row.tobytes() if away else b"" for row, away in zip(rows, moved.tolist(), strict=True)]


def sow(seed: int) -> None:
    """Seed every global generator, so that a row's noise does not depend on who runs it."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - it is the user's program that draws from it
    torch.default_generator.manual_seed(seed)  # torch.manual_seed takes 0.4 ms: it asks every kind of device
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)


@contextlib.contextmanager
def sown(seed: int) -> Iterator[None]:
    """Everything that draws random numbers begins at ``seed``; afterwards it goes on where it was."""
    token = evaluation_seed.set(seed)
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    try:
        with torch.random.fork_rng(devices):
            sow(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        evaluation_seed.reset(token)
