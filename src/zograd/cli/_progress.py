"""Live progress: one moving line on a terminal, a line every few seconds anywhere else."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from zograd._result import Result
from zograd._telling import telling

SECONDS_BETWEEN_LINES = 5.0
WIDE = 92
"""Columns in which both fit, how good the gradients are and the evaluations a second; else the former alone."""

Callback = Callable[[Result], None]


@contextmanager
def progress(console: Console, budget: int, start: float) -> Iterator[Callback]:
    """A callback for `zograd.minimize` that shows evaluations, loss, how good the gradients are, speed and time left.

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
            told, rate = _told(result), f"{_rate(result):,.0f}/s"
            if told:
                rate = told if console.width < WIDE else f"{told}  {rate}"
            bar.update(task, completed=result.nfev, loss=_loss(result), rate=rate)

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
            parts = (share, _loss(result), _told(result), f"{_rate(result):,.0f} a second", f"{left:.0f} s left")
            console.print(", ".join(filter(None, parts)), markup=False)

    return show


def _told(result: Result) -> str:
    """What the newest gradient told: of the last step, or of the one before it, which it tries."""
    return next(filter(None, (telling(step.diagnostics) for step in reversed(result.history[-2:]))), "")


def _loss(result: Result) -> str:
    now = result.history[-1].value
    return f"best {result.fun:.4g}" if now is None else f"loss {now:.4g}, best {result.fun:.4g}"


def _rate(result: Result) -> float:
    return result.nfev / max(result.seconds, 1e-9)
