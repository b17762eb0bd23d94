"""Train a network to write digits with a pen that has no derivative, in two ways, at the same number of drawings.

    python run.py --data FOLDER

writes digits.png, reconstruction.png and results.csv beside this file.
"""

import argparse
import csv
import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
import strokes
import torch
from torch import Tensor, nn

import zograd as zo

HERE = Path(__file__).parent
BATCH, PAIRS = 16, 8
"""Digits a step, and pairs of drawings for each: both ways draw 17 x 16 pictures a step."""
RENDERER = {"spread": 0.03, "rate": 2e-2}
WEIGHTS = {"spread": 0.15, "rate": 2e-2}
"""Chosen by short runs, such as those of ``--grid``."""
NARROWED = 0.3
"""What is left in the end of the spread over the weights."""
WIDE = {"latent": 8, "hidden": 128}
"""A larger network, which the first way can afford."""
PRIOR = 0.1
"""What the divergence of the codes weighs beside the squared error."""
BACKPROPAGATED, OVER_WEIGHTS = "zo.differentiable renderer", "surrogate over all weights"
LARGER = f"{BACKPROPAGATED}, larger network"


class Pen(nn.Module):
    """The renderer as it is, without a gradient."""

    def forward(self, numbers: Tensor) -> Tensor:
        """The pictures."""
        return strokes.drawn(numbers)


def through_renderer(
    digits: Tensor, steps: int, seed: int, spread: float, rate: float, **sizes: int
) -> Iterator[nn.Module]:
    """The gradient of the renderer alone is estimated, digit by digit; backpropagation does the rest."""
    torch.manual_seed(seed)
    estimator = zo.SmoothedGradient(spread=spread, samples=PAIRS)
    layer = zo.differentiable(zo.batched(strokes.drawn), estimator=estimator, seed=seed)
    writer = strokes.Writer(layer, **sizes)
    optimizer = torch.optim.Adam(writer.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    for batch, noise in batches(digits, steps, seed, writer.latent):
        pictures, divergence = writer(batch, noise)
        loss = (strokes.error(pictures, batch) + PRIOR * divergence).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        yield writer


def over_weights(digits: Tensor, steps: int, seed: int, spread: float, rate: float) -> Iterator[nn.Module]:
    """Everything is one black box from the weights to the loss of a batch, and a surrogate is fitted to it."""
    torch.manual_seed(seed)
    writer = strokes.Writer(Pen())
    optimizer = torch.optim.Adam(writer.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    surrogate = zo.NeuralSurrogate(spread=spread, samples=PAIRS)
    for step, (batch, noise) in enumerate(batches(digits, steps, seed, writer.latent)):
        narrowed = surrogate.with_spread(spread * (1 - (1 - NARROWED) * step / steps))

        def loss(output: tuple[Tensor, Tensor], batch: Tensor = batch) -> Tensor:
            pictures, divergence = output
            return (strokes.error(pictures, batch) + PRIOR * divergence).mean()

        optimizer.zero_grad()
        zo.backward(writer, loss, (batch, noise), estimator=narrowed)
        optimizer.step()
        schedule.step()
        yield writer
    print(f"share of new differences that the surrogate foretold: {surrogate.state_dict()['explained']:.2f}")


def batches(digits: Tensor, steps: int, seed: int, latent: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Digits and the noise of their codes, the same for both ways with one size of codes."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        chosen = torch.randint(len(digits), (BATCH,), generator=generator)
        yield digits[chosen], torch.randn(BATCH, latent, generator=generator)


@torch.no_grad()
def reconstructed(writer: nn.Module, digits: Tensor) -> Tensor:
    """What the network writes when it is shown digits."""
    return strokes.drawn(writer.strokes(writer.codes(digits)[0]))


@torch.no_grad()
def sampled(writer: nn.Module, number: int, seed: int = 1) -> Tensor:
    """What it writes by itself."""
    latent = torch.randn(number, writer.latent, generator=torch.Generator().manual_seed(seed))
    return strokes.drawn(writer.strokes(latent))


def trained(
    way: Callable[..., Iterator[nn.Module]], digits: Tensor, unseen: Tensor, steps: int, seed: int, **settings: float
) -> tuple[nn.Module, list[tuple[int, float, float]]]:
    """The network, and (drawings, mean squared error on digits that it was not trained with, seconds) on the way."""
    rows, start = [], time.process_time()
    every = max(1, steps // 40)
    for step, writer in enumerate(way(digits, steps, seed, **settings), 1):
        if step == 1 or step % every == 0:
            value = float(strokes.error(reconstructed(writer, unseen), unseen).mean()) / strokes.SIDE**2
            rows.append((step * BATCH * (2 * PAIRS + 1), value, time.process_time() - start))
    return writer, rows


def sheet(pictures: Tensor, columns: int) -> Tensor:
    """Pictures of digits as one, dark on light, with a gap between them."""
    squares = nn.functional.pad(pictures.reshape(-1, strokes.SIDE, strokes.SIDE), (1, 1, 1, 1))
    return 1 - torch.cat([torch.cat(list(row), 1) for row in squares.split(columns)], 0)


def show(writers: dict[str, nn.Module], unseen: Tensor) -> None:
    """What each network makes of the same digits, and what it writes by itself."""
    figure, axes = plt.subplots(
        1 + 2 * len(writers), 1, figsize=(7, 10), height_ratios=[1, *[1, 3] * len(writers)], layout="constrained"
    )
    rows = [("digits it was not trained with", unseen[:14])]
    for name, writer in writers.items():
        rows += [(f"{name}: the same, as it writes them", reconstructed(writer, unseen[:14]))]
        rows += [(f"{name}: digits of its own", sampled(writer, 42))]
    for panel, (title, pictures) in zip(axes, rows, strict=True):
        panel.imshow(sheet(pictures, 14), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        panel.set_title(title, fontsize=9, loc="left")
        panel.set_axis_off()
    figure.savefig(HERE / "digits.png", dpi=110)


def plot(curves: dict[str, list[tuple[int, float, float]]]) -> None:
    """The error against the drawings."""
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for name, rows in curves.items():
        drawings, errors, _ = zip(*rows, strict=True)
        axes.plot(drawings, errors, label=name)
    axes.set(xlabel="drawings", ylabel="mean squared error, unseen digits", ylim=(0, None))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "reconstruction.png", dpi=110)


def grid(digits: Tensor, unseen: Tensor, steps: int) -> None:
    """Both ways with several spreads and rates, shortly."""
    for way, spreads, rates in (
        (through_renderer, (0.015, 0.03, 0.06), (6e-3, 2e-2, 5e-2)),
        (over_weights, (0.05, 0.15, 0.4), (7e-3, 2e-2, 6e-2)),
    ):
        for spread, rate in itertools.product(spreads, rates):
            _, rows = trained(way, digits, unseen, steps, 0, spread=spread, rate=rate)
            print(f"{way.__name__:<18} spread {spread:<6} rate {rate:<6} {rows[-1][1]:.4f}", flush=True)


def main() -> None:
    """Train in both ways and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of MNIST's idx files, .gz or not")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--grid", action="store_true", help="compare settings instead")
    given = parser.parse_args()
    torch.set_num_threads(1)
    digits, unseen = strokes.load(given.data, train=True), strokes.load(given.data, train=False)[:1000]
    if given.grid:
        grid(digits, unseen, given.steps)
        return
    writers, curves = {}, {}
    for name, way, settings in (
        (BACKPROPAGATED, through_renderer, RENDERER),
        (OVER_WEIGHTS, over_weights, WEIGHTS),
        (LARGER, through_renderer, RENDERER | WIDE),
    ):
        writers[name], curves[name] = trained(way, digits, unseen, given.steps, given.seed, **settings)
        drawings, value, seconds = curves[name][-1]
        print(f"{name}: mean squared error {value:.4f} after {drawings:,} drawings, {seconds:.0f} s of one core")
    with (HERE / "results.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["way", "drawings", "error", "seconds"])
        for name, rows in curves.items():
            table.writerows([name, drawings, f"{value:.5f}", f"{seconds:.0f}"] for drawings, value, seconds in rows)
    show(writers, unseen)
    plot(curves)


if __name__ == "__main__":
    main()
