"""What an optimisation returns, under SciPy's names."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, final

from zograd.strategies import Step


@final
@dataclass(frozen=True, eq=False)
class Result:
    """The best found and how it was found, under the names of ``scipy.optimize.OptimizeResult``.

    Args:
        x: The best point seen, as the structure that ``x0`` was. Under noise the lowest value is luck: it is then
            the point that the step rule settled on, where that knows of the noise (`zograd.optim.QuasiNewton`).
        fun: Its value, as the program returned it; under noise the mean of several. NaN where only derivatives were
            asked for.
        nfev: Evaluations sent out, lost ones included.
        nit: Steps made.
        success: Whether it ended as asked: budget, target, time or callback; ``False`` after Ctrl-C.
        status: 0 the budget is spent, 1 the target is reached, 2 time is up, 3 the callback said stop,
            -1 interrupted or terminated.
        message: How it ended, which method was used, and what was lost, in words.
        history: Every `Step`; of a durable run they are read from its file when they are asked for. Of best points that
            together exceed 64 MiB a thinned set and the newest are kept; where it is not, ``best_point`` holds NaN.
        lost: Evaluations that failed or returned nothing usable.
        seconds: Wall time.
    """

    x: Any
    fun: float
    nfev: int
    nit: int
    success: bool
    status: int
    message: str
    history: Sequence[Step] = field(default_factory=list, repr=False)
    lost: int = 0
    seconds: float = 0.0

    def __getitem__(self, name: str) -> Any:
        if name not in self:
            raise KeyError(name)
        return getattr(self, name)

    def __contains__(self, name: object) -> bool:
        return name in self.keys()

    def keys(self) -> list[str]:
        """The names, as SciPy's results list theirs."""
        return [entry.name for entry in fields(self)]

    def __repr__(self) -> str:
        shown = {name: self[name] for name in self.keys() if name != "history"}
        width = max(map(len, shown))
        lines = []
        for name, value in shown.items():
            text = str(value).replace("\n", "\n" + " " * (width + 3))
            lines.append(f"{name:>{width + 1}}: {text}")
        return "\n".join(lines)
