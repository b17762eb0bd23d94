"""ResNet-20 trained without a GPU from function values, beside backpropagation with the same budget of epochs.

10,000 images of CIFAR-10 at their full 32 x 32 pixels, random crops and flips, BatchNorm in training mode, batches of
64, SGD (0.05, momentum 0.9, weight decay 5e-4, cosine over all steps). FO and ZO start from the same weights and see
the same crops in the same order; they differ in where the gradient comes from: `loss.backward()` (FO), or `zograd.nn`'s
contraction (ZO), which sees function values only. The masks:

- dense: all 269,722 derivatives at every step.
- grasp: a tenth of the weights at a time, drawn anew every epoch with the layer ratios of ZO-GraSP: fewer epochs,
  because only the difference between FO and ZO is asked for.

The curves are of 2,000 training images that are held out; the 10,000 test images are looked at once, at the end. Each
run keeps its state in ``--folder`` and goes on where it was when started again. Seconds are processor time.

    OMP_NUM_THREADS=1 python benchmarks/resnet_training.py --data DIR      # DIR/cifar10-jpeg.npz
"""

import argparse
import math
import sys
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import torch
from _machine import machine, package
from _resnet20 import resnet20
from _runner import GENERATED, RESULTS, ROOT, STATIC, Results, Row, table, write
from torch import Tensor, nn

import zograd as zo

KEY = ["gradient", "masks", "seed", "epoch"]
FIELDS = [*KEY, "epochs", "loss", "held_out", "test", "seconds", "images", "version", "machine"]
EPOCHS = {"dense": 20, "grasp": 6}
IMAGES, HELD_OUT, BATCH, RATE, KEEP, SCORED = 10_000, 2_000, 64, 0.05, 0.1, 250
Pair = tuple[Tensor, Tensor]


class Crops:
    """Batches in a random order, each image moved by up to four pixels and flipped half of the time.

    Args:
        x: Images (n, channels, height, width).
        y: Labels (n,).
        batch: Images in a batch.
        seed: Of the generator that everything is drawn from, which the trainer's checkpoints keep.
    """

    def __init__(self, x: Tensor, y: Tensor, batch: int, seed: int) -> None:
        self.x, self.y, self.batch = x, y, batch
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return math.ceil(len(self.x) / self.batch)

    def __iter__(self) -> Iterator[Pair]:
        order = torch.randperm(len(self.x), generator=self.generator)
        for index in order.split(self.batch):
            yield moved(self.x[index], self.generator), self.y[index]


def moved(x: Tensor, generator: torch.Generator, most: int = 4) -> Tensor:
    """Each image cropped from a frame of zeros around it, at a random place, and flipped with probability 1/2."""
    n, channels, height, width = x.shape
    framed = nn.functional.pad(x, (most,) * 4)
    down, right = torch.randint(2 * most + 1, (2, n, 1), generator=generator)
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    flipped = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.where(flipped, columns.flip(1), columns)
    image, channel = torch.arange(n)[:, None, None, None], torch.arange(channels)[None, :, None, None]
    return framed[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def data(folder: Path) -> dict[str, Pair]:
    """Images with mean 0 and deviation 1 in each channel, of those trained with."""
    x, y = zo.nn.read_jpegs(folder / "cifar10-jpeg.npz", "train", IMAGES + HELD_OUT)
    tests = zo.nn.read_jpegs(folder / "cifar10-jpeg.npz", "test")
    mean, deviation = (f(x[:IMAGES], (0, 2, 3), keepdim=True) for f in (torch.mean, torch.std))
    sets = {"train": (x[:IMAGES], y[:IMAGES]), "held out": (x[IMAGES:], y[IMAGES:]), "test": tests}
    return {name: ((images - mean) / deviation, labels) for name, (images, labels) in sets.items()}


def arm(gradient: str, masks: str, seed: int, sets: dict[str, Pair], folder: Path, model: nn.Module) -> zo.nn.Trainer:
    """What trains one network, and goes on where the folder says."""
    batches, epochs = math.ceil(len(sets["train"][0]) / BATCH), EPOCHS[masks]
    drawn: zo.nn.Masks | None = None
    if masks == "grasp":
        x, y = (part[:SCORED] for part in sets["train"])
        scores = zo.nn.grasp_scores(model, partial(nn.functional.cross_entropy, target=y), x)
        drawn = zo.nn.RandomMasks(model, zo.nn.layer_ratios(scores, KEEP))
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4)
    return zo.nn.Trainer(
        model, nn.functional.cross_entropy, optimizer, gradient="autograd" if gradient == "FO" else "auto",
        masks=drawn, scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches),
        schedule="step", folder=folder / f"{gradient}_{masks}_{seed}", seed=seed, progress=False,
    )  # fmt: skip


def train(gradient: str, masks: str, seed: int, sets: dict[str, Pair], folder: Path, results: Results) -> None:
    """One network, a row after every epoch."""
    torch.manual_seed(seed)
    trainer = arm(gradient, masks, seed, sets, folder, resnet20())
    batches, epochs = Crops(*sets["train"], BATCH, seed), EPOCHS[masks]
    key = {"gradient": gradient, "masks": masks, "seed": seed}
    known = {results.name(row) for row in results.rows}
    for epoch in range(1, epochs + 1):
        row: Row = {**key, "epoch": epoch}
        if results.name(row) in known:
            continue
        began = time.process_time()
        training = trainer.fit(batches, sets["held out"], epochs=epoch, save_every=300.0)
        if training.stopped == "interrupted":
            raise SystemExit(f"interrupted; the state is in {folder}")
        row["seconds"] = f"{time.process_time() - began:.1f}"
        got = training.epochs[epoch - 1]
        test = f"{100 * trainer.evaluate(sets['test'])['accuracy']:.2f}" if epoch == epochs else ""
        row |= {
            "epochs": epochs, "loss": f"{got['loss']:.4f}", "held_out": f"{100 * got['validation_accuracy']:.2f}",
            "test": test, "images": len(sets["train"][0]), "version": package("torch"), "machine": machine(),
        }  # fmt: skip
        results.append(row)
        print({name: row[name] for name in (*KEY, "loss", "held_out", "test", "seconds")}, flush=True)


def runs(rows: Iterable[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """The rows of each network, by masks, gradient and seed, in order."""
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: int(row["epoch"])):
        found.setdefault((row["masks"], row["gradient"], row["seed"]), []).append(row)
    return dict(sorted(found.items()))


def report(results: Results) -> None:
    """The table for the documentation."""
    results.rewrite([dict(row) for row in results.rows])
    rows = []
    for (masks, gradient, seed), mine in runs(results.rows).items():
        minutes = sum(float(row["seconds"]) for row in mine) / 60
        last, done = mine[-1], f"{len(mine)} of {mine[-1]['epochs']}"
        rows.append([masks, gradient, seed, done, last["loss"], last["held_out"], last["test"], f"{minutes:.1f}"])
    head = ["masks", "gradient", "seed", "epochs", "last training loss", "held-out accuracy, %", "test accuracy, %"]
    write(GENERATED / "resnet_training.md", table([*head, "minutes of one core"], rows))


def picture(rows: list[Row]) -> None:
    """Held-out accuracy over epochs and over time."""
    sys.path.append(str(ROOT / "docs" / "scripts"))
    import _style
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8.4, 3.6), sharey=True)
    for (masks, gradient, seed), mine in runs(rows).items():
        reached = [float(row["held_out"]) for row in mine]
        minutes = (torch.tensor([float(row["seconds"]) for row in mine]).cumsum(0) / 60).tolist()
        color = {"FO": _style.GREY, "ZO": _style.BLUE}[gradient]
        name = {"FO": "backpropagation", "ZO": "function values"}[gradient]
        style = {"dense": "-", "grasp": "--"}[masks]
        text = {"dense": name, "grasp": f"{name}, 10 % of the weights"}[masks] if seed == "0" else None
        left.plot([int(row["epoch"]) for row in mine], reached, style, color=color, lw=1.6, label=text)
        right.plot(minutes, reached, style, color=color, lw=1.6)
    left.xaxis.get_major_locator().set_params(integer=True)
    left.set(xlabel="epochs", ylabel="held-out accuracy, %", title="ResNet-20, 10,000 images, one core")
    right.set(xlabel="minutes of one core")
    left.legend(loc="lower right", fontsize=8.5)
    _style.save(figure, "resnet_training", STATIC)


def main() -> None:
    """Train what is missing and write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="where cifar10-jpeg.npz is")
    parser.add_argument("--folder", type=Path, default=Path("runs/resnet"), help="where the state of the runs is kept")
    parser.add_argument("--gradient", choices=("FO", "ZO"), nargs="+", default=["FO", "ZO"])
    parser.add_argument("--masks", choices=tuple(EPOCHS), nargs="+", default=list(EPOCHS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--results", type=Path, default=RESULTS / "resnet_training.csv")
    given = parser.parse_args()
    results = Results(given.results, FIELDS, KEY)
    if (given.data / "cifar10-jpeg.npz").exists():
        torch.set_num_threads(1)
        sets = data(given.data)
        for masks in given.masks:
            for seed in given.seeds:
                for gradient in given.gradient:
                    train(gradient, masks, seed, sets, given.folder, results)
    else:
        print(f"nothing is trained: {given.data}/cifar10-jpeg.npz is not there")
    if results.rows:
        report(results)
        picture(results.rows)


if __name__ == "__main__":
    main()
