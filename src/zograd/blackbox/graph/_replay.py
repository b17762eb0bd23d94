"""Running a tape again from a moved parameter on: what does not depend on it is taken from the tape."""

from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor

from zograd.blackbox.graph._delta import difference
from zograd.blackbox.graph._narrow import Narrow, narrow_difference, takes_one_channel
from zograd.blackbox.graph._tape import Node, Tape
from zograd.blackbox.graph._work import Work, work


@final
class Replay:
    """The loss of a tape with some of its parameters at other values.

    Args:
        tape: The forward pass, with all values at the centre.
    """

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self._paths: dict[tuple[int, ...], list[tuple[Node, list[int]]]] = {}
        self._wide: dict[int, Tensor] = {}
        self._used = {ref for node in tape.nodes for ref in node.refs}

    def value(self, moved: Mapping[int, Tensor]) -> Tensor:
        """The loss with ``moved`` values in place of those on the tape: the same operations in the same order."""
        now = dict(moved)
        for node, finished in self._path(tuple(moved)):
            outputs = node.run(lambda place: now[place] if place in now else self.tape.values[place])
            self._take(now, node, outputs, finished)
        return now.get(self.tape.result, self.tape.values[self.tape.result])

    def difference(self, offsets: Mapping[int, Tensor | Narrow]) -> Tensor:
        """The loss with ``offsets`` added to some values, minus the loss on the tape.

        Differences are pushed through instead of values: linear operations act on the difference alone, so that what
        is small is never a difference of two large numbers.
        """
        now: dict[int, Any] = dict(offsets)
        for node, finished in self._path(tuple(offsets)):
            outputs = narrow_difference(node, self.tape.values, now, self._used)
            if outputs is None:
                for ref in node.refs:
                    if isinstance(now.get(ref), Narrow):
                        now[ref] = now[ref].widened(self.tape.values[ref])
                outputs = difference(node, self.tape.values, now, self._wide)
            self._take(now, node, outputs, finished)
        found: Tensor | None = now.get(self.tape.result)
        return torch.zeros_like(self.tape.values[self.tape.result]) if found is None else found

    def elements(self, place: int) -> int:
        """What one row costs from this parameter on, in elements written."""
        written = [self.tape.values[o].numel() for n, _ in self._path((place,)) for o in n.outputs if o is not None]
        return self.tape.values[place].numel() + sum(written)

    def work(self, place: int, one_channel: bool) -> Work:
        """What a row costs in time, predicted; ``one_channel`` where its difference is a `Narrow`."""
        return work((node for node, _ in self._path((place,))), self.tape.values, place, one_channel)

    def takes_one_channel(self, place: int) -> bool:
        """Whether each row of a parameter belongs to one channel, so that its difference may be a `Narrow`."""
        return takes_one_channel(self.tape.nodes, place)

    @staticmethod
    def _take(now: dict[int, Any], node: Node, outputs: tuple[Any, ...], finished: list[int]) -> None:
        pairs = zip(node.outputs, outputs, strict=False)
        now.update({place: value for place, value in pairs if place is not None and value is not None})
        for place in finished:
            now.pop(place, None)

    def _path(self, places: tuple[int, ...]) -> list[tuple[Node, list[int]]]:
        """The nodes to run, each with the values that nobody needs after it."""
        if places not in self._paths:
            nodes = self.tape.needed(places)
            seen = {self.tape.result}
            path: list[tuple[Node, list[int]]] = []
            for node in reversed(nodes):
                held = {*node.refs, *(place for place in node.outputs if place is not None)}
                path.append((node, sorted(held - seen)))
                seen |= held
            self._paths[places] = path[::-1]
        return self._paths[places]


NO_MEMORY = ("not enough memory", "can't allocate memory", "Cannot allocate memory")
"""How torch words it on a CPU, where the error has no class of its own."""


def out_of_memory(error: Exception) -> bool:
    """Whether something failed for want of memory only: less at once may do."""
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return known or (isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY))


def stacked(function: Callable[[Tensor], Tensor], rows: Tensor, at_once: int) -> Tensor:
    """``function`` of each row, ``at_once`` of them in one call; half as many where memory runs out.

    An operation that cannot be stacked is run row by row.
    """
    found: list[Tensor] = []
    start = 0
    while start < len(rows):
        piece = rows[start : start + at_once]
        try:
            found.append(torch.vmap(function)(piece) if len(piece) > 1 else function(piece[0])[None])
        except (RuntimeError, NotImplementedError, ValueError, MemoryError) as error:
            if len(piece) == 1:
                raise
            at_once = len(piece) // 2 if out_of_memory(error) else 1
            continue
        start += len(piece)
    return torch.cat(found)
