"""The processes of torch.distributed as who evaluates: every rank does its part, and all know all of it."""

import hashlib
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, final

import torch
from torch import distributed

from zograd._checks import require
from zograd._errors import ArgumentError
from zograd._probes import Probes
from zograd.blackbox import BlackBox, ModuleLoss, Share, TracedLoss
from zograd.evaluate._evaluator import Evaluator, Finished
from zograd.evaluate._inprocess import attempted
from zograd.evaluate._replica import digest


@final
class Ranks(Evaluator):
    r"""Shares the rows among the ranks of torch.distributed, one process for each device.

    Every rank runs the same script with the same parameters, batch and random state, as in distributed training, and
    calls `zograd.backward` at the same time. It evaluates its shares on its own device, and gathers the others' values
    (values, not sums: nothing is rounded on the way), so that all ranks get the same gradient, bit for bit that of one
    process.

    Shares go to the ranks by predicted cost, the longest first, each to the rank with the least to do so far.

    **Cost**: one exchange of the values; parameters and batch are not sent, for every rank has them. **Failures**: a
    row that raises is lost on every rank alike. A rank that dies ends the exchange with torch.distributed's own error,
    after the time limit of the group; there, use `zograd.Pool`. **When**: a machine with several GPUs, or a cluster on
    which training is started with ``torchrun``.

    Args:
        group: A process group; by default all processes.

    Raises:
        ArgumentError: When torch.distributed is not initialised, when ranks do not ask for the same, or when a network
            cannot be pickled, by which they are compared.

    Example:
        >>> import torch, zograd as zo
        >>> torch.distributed.init_process_group("gloo")  # doctest: +SKIP
        >>> ranks = zo.evaluate.Ranks()  # doctest: +SKIP
        >>> loss = zo.backward(model, loss_fn, inputs, evaluator=ranks)  # doctest: +SKIP
    """

    def __init__(self, group: Any = None) -> None:
        ready = distributed.is_available() and distributed.is_initialized()
        hint = "Call torch.distributed.init_process_group first, in every process."
        require(ready, "group", "belong to torch.distributed, which must be initialised", group, hint)
        self.group = group

    def __repr__(self) -> str:
        return f"Ranks({distributed.get_world_size(self.group)})"

    def stream(self, blackbox: BlackBox, probes: Sequence[Probes]) -> Iterator[Finished]:
        """Evaluate this rank's part, then give all of it.

        Raises:
            ArgumentError: When another rank asks for something else.
        """
        world, rank = distributed.get_world_size(self.group), distributed.get_rank(self.group)
        calls, rows = [], []
        for call, wave in enumerate(probes):
            shares = blackbox.shares(wave) or [Share(range(row, row + 1), 1.0) for row in range(len(wave))]
            calls += [call] * len(shares)
            rows += shares
        found: list[Finished] = []
        error: ArgumentError | None = None
        for at in assigned([share.cost for share in rows], world)[rank]:
            call, mine = calls[at], rows[at].rows
            try:
                found += attempted(blackbox.probe, probes[call][mine.start : mine.stop], [(call, mine)])
            except ArgumentError as mistake:  # the others wait for this rank: they must hear of it
                error = mistake
                break
        here = (_question(blackbox, probes), [_travelling(piece) for piece in found], error and str(error))
        everywhere: list[Any] = [None] * world
        distributed.all_gather_object(everywhere, here, group=self.group)
        if error is not None:
            raise error
        mistakes = {number: said for number, (_, _, said) in enumerate(everywhere) if said}
        if mistakes:
            raise ArgumentError("; ".join(f"rank {number}: {said}" for number, said in mistakes.items()))
        others = [number for number, (asked, _, _) in enumerate(everywhere) if asked != everywhere[0][0]]
        hint = "Broadcast them, seed torch alike, and load the same data in the same order."
        same = "hold the same parameters, buffers, batch and random state on every rank"
        require(not others, "model", same, f"rank {others} with others than rank 0", hint)
        for _, pieces, _ in everywhere:
            for piece in pieces:
                values = None if piece.values is None else piece.values.to(probes[piece.call].center.device)
                yield replace(piece, values=values)


def assigned(costs: Sequence[float], workers: int) -> list[list[int]]:
    """Which of the tasks each worker does: the longest first, each to the worker with the least to do so far.

    At most 4/3 of the time that the best division takes (Graham, Bounds on multiprocessing timing anomalies, 1969).
    """
    tasks: list[list[int]] = [[] for _ in range(workers)]
    loads = [(0.0, worker) for worker in range(workers)]
    for at in sorted(range(len(costs)), key=lambda at: (-costs[at], at)):
        load, worker = heapq.heappop(loads)
        tasks[worker].append(at)
        heapq.heappush(loads, (load + costs[at], worker))
    return tasks


def _travelling(piece: Finished) -> Finished:
    """What came back, without what only this process can hold."""
    return replace(piece, values=None if piece.values is None else piece.values.cpu(), exception=None)


def _question(blackbox: BlackBox, probes: Sequence[Probes]) -> bytes:
    """A digest of what is asked."""
    found = hashlib.blake2b(digest_size=16)
    for wave in probes:
        found.update(wave.center.cpu().numpy().tobytes())
        found.update(wave.weighted_sum(torch.ones(len(wave)).to(wave.center)).cpu().numpy().tobytes())
    if isinstance(blackbox, ModuleLoss | TracedLoss):
        found.update(digest(blackbox))
    return found.digest()
