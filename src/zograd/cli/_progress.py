"""Live progress: one moving line on a terminal, a line every few seconds anywhere else."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from zograd._result import Result

SECONDS_BETWEEN_LINES = 5.0

Callback = Callable[[Result], None]


@contextmanager
def progress(console: Console, budget: int, start: float) -> Iterator[Callback]:
    """A callback for `zograd.minimize` that shows evaluations, loss, best, evaluations a second and the time left.

    Args:
        console: Where to.
        budget: How many evaluations there will be.
        start: The loss at the starting point.
    """
    if not console.is_terminal:
        yield _lines(console, budget)
        return
    bar = Progress(
        BarColumn(bar_width=8),  # all of it fits in 80 columns
        TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
        TextColumn("[bold]{task.fields[loss]}[/bold]"),
        TextColumn("[dim]{task.fields[rate]}[/dim]"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=console,
        refresh_per_second=5,
    )
    with bar:
        task = bar.add_task("", total=budget, loss=f"start {start:.4g}", rate="")

        def show(result: Result) -> None:
            bar.update(task, completed=result.nfev, loss=_loss(result), rate=f"{_rate(result):,.0f}/s")

        yield show


def _lines(console: Console, budget: int) -> Callback:
    said = time.monotonic()

    def show(result: Result) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= SECONDS_BETWEEN_LINES:
            said = now
            left = (budget - result.nfev) * result.seconds / result.nfev
            share = f"{result.nfev:,} of {budget:,} evaluations"
            console.print(f"{share}, {_loss(result)}, {_rate(result):,.0f} a second, {left:.0f} s left", markup=False)

    return show


def _loss(result: Result) -> str:
    now = result.history[-1].value
    return f"best {result.fun:.4g}" if now is None else f"loss {now:.4g}, best {result.fun:.4g}"


def _rate(result: Result) -> float:
    return result.nfev / max(result.seconds, 1e-9)
