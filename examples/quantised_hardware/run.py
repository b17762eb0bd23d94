"""Train a network with an analogue chip in its middle, in several ways, and compare.

    python run.py

writes accuracy.png and results.csv beside this file.
"""

import argparse
import csv
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib as mpl

mpl.use("agg")

import chip as hardware
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zograd as zo

HERE = Path(__file__).parent
BATCH = 64
Made = tuple[nn.Module, Callable[[Tensor, Tensor], Tensor], list[nn.Parameter]]


def backpropagated(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """A gradient by autograd."""

    def gradient(x: Tensor, y: Tensor) -> Tensor:
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss.detach()

    return gradient


def frozen(programmed: hardware.Programmed, x: Tensor, y: Tensor) -> Made:
    """Nothing goes back through the chip: what is before it and in it stays as it was drawn."""
    model = hardware.network(programmed)
    return model, backpropagated(model), list(model[-1].parameters())


def straight_through(programmed: hardware.Programmed, x: Tensor, y: Tensor) -> Made:
    """The backward pass of the chip that its maker meant."""
    model = hardware.network(hardware.StraightThrough(programmed))
    return model, backpropagated(model), list(model.parameters())


def opaque(programmed: hardware.Programmed, x: Tensor, y: Tensor) -> Made:
    """`zo.nn.Opaque`: linear in the voltages, each row of weights one output; the step by measuring its noise."""
    part = zo.nn.Opaque(programmed, structure="linear", channels=True)
    model = hardware.network(part)
    steps = zo.nn.layer_steps(model, lambda out: F.cross_entropy(out, y), x, parameters=[programmed.weight])
    part.step = steps.layers[0].step
    print(f"zo.nn.layer_steps: the weights' step is {part.step:.2f}; {steps.evaluations} evaluations")

    def gradient(x: Tensor, y: Tensor) -> Tensor:
        return zo.nn.backward(model, lambda out: F.cross_entropy(out, y), x, method="contraction", autograd=True)

    return model, gradient, list(model.parameters())


def differentiable(programmed: hardware.Programmed, x: Tensor, y: Tensor) -> Made:
    """`zo.differentiable`: nothing is known of the chip."""
    model = hardware.network(hardware.Weighted(programmed, samples=24))
    return model, backpropagated(model), list(model.parameters())


def whole(programmed: hardware.Programmed, x: Tensor, y: Tensor) -> Made:
    """`zo.backward`: the whole network is one black box of all its weights."""
    model = hardware.network(programmed)
    estimator = zo.RandomGradient(samples=24, step=0.02, directions="rademacher")

    def gradient(x: Tensor, y: Tensor) -> Tensor:
        return zo.backward(model, lambda out: F.cross_entropy(out, y), x, estimator=estimator)

    return model, gradient, list(model.parameters())


WAYS: dict[str, tuple[Callable[..., Made], float]] = {
    "chip and what is before it frozen": (frozen, 0.1),
    "straight through the ideal chip": (straight_through, 0.02),
    "zo.nn.Opaque, structure known": (opaque, 0.05),
    "zo.differentiable, nothing known": (differentiable, 0.02),
    "zo.backward, whole network": (whole, 0.01),
}
"""How, and the learning rate: the best of 0.01, 0.02, 0.05 and 0.1 on digits held out of the training (``--rates``)."""


def batches(x: Tensor, y: Tensor, steps: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The same for all ways."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        chosen = torch.randint(len(x), (BATCH,), generator=generator)
        yield x[chosen], y[chosen]


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of right answers, of the chip as it is, noise and all."""
    return float((model(x).argmax(1) == y).float().mean())


def trained(name: str, data: hardware.Digits, steps: int, seed: int, rate: float | None = None) -> list[dict]:
    """(step, accuracy on digits that were not trained with, what the chip did, seconds) on the way."""
    torch.manual_seed(seed)
    x, y, unseen, classes = data
    chip = hardware.Chip(seed=seed)
    way, usual = WAYS[name]
    model, gradient, parameters = way(hardware.Programmed(chip), x[:BATCH], y[:BATCH])
    optimizer = torch.optim.Adam(parameters, lr=usual if rate is None else rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    rows, seconds = [], 0.0
    for step, (images, targets) in enumerate(batches(x, y, steps, seed), 1):
        began = time.process_time()
        optimizer.zero_grad()
        gradient(images, targets)
        optimizer.step()
        schedule.step()
        seconds += time.process_time() - began
        if step == 1 or step % max(1, steps // 20) == 0:
            spent = chip.programmed, chip.shown
            share = accuracy(model, unseen, classes)
            chip.programmed, chip.shown = spent  # looking is not training
            rows.append(
                {
                    "way": name,
                    "seed": seed,
                    "step": step,
                    "accuracy": f"{share:.4f}",
                    "programmed": spent[0],
                    "shown": spent[1],
                    "seconds": f"{seconds:.1f}",
                }
            )
    return rows


def plot(rows: list[dict], seeds: int) -> None:
    """Accuracy against steps, the mean over the seeds."""
    figure, axes = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
    for name in WAYS:
        mine = [row for row in rows if row["way"] == name]
        steps = sorted({row["step"] for row in mine})
        means = [sum(float(row["accuracy"]) for row in mine if row["step"] == step) / seeds for step in steps]
        axes.plot(steps, means, label=f"{name}: {means[-1]:.1%}")
    axes.set(xlabel="steps", ylabel="accuracy, 360 unseen digits", ylim=(0, 1))
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "accuracy.png", dpi=110)


def main() -> None:
    """Train in all ways and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--rates", action="store_true", help="compare learning rates on seed 0 and held-out digits instead"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = hardware.digits()
    if given.rates:
        x, y = data[:2]
        data = x[:1150], y[:1150], x[1150:], y[1150:]
        for name in WAYS:
            found = [(rate, trained(name, data, given.steps, 0, rate)[-1]) for rate in (0.01, 0.02, 0.05, 0.1)]
            print(name, {rate: row["accuracy"] for rate, row in found}, found[0][1]["seconds"], flush=True)
        return
    rows = []
    for name in WAYS:
        ends = []
        for seed in range(given.seeds):
            rows += trained(name, data, given.steps, seed)
            ends.append(rows[-1])
        shares = [float(row["accuracy"]) for row in ends]
        print(
            f"{name}: {sum(shares) / len(shares):.1%} ({min(shares):.1%} to {max(shares):.1%}); "
            f"{ends[0]['programmed'] / given.steps:.0f} programmings and {ends[0]['shown'] / given.steps:,.0f} rows a "
            f"step, {float(ends[0]['seconds']):.0f} s",
            flush=True,
        )
    with (HERE / "results.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    plot(rows, given.seeds)


if __name__ == "__main__":
    main()
