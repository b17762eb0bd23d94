"""A small ResNet trained from function values, with sparse gradients, beside backpropagation at the same epochs.

DeepZero's recipe on what two cores manage: 10,000 images of CIFAR-10 at 16 x 16 pixels, a residual network of 19,858
parameters, SGD (0.1, momentum 0.9, weight decay 5e-4, cosine), masks redrawn every epoch. The arms:

- FO and CGE, dense: backpropagation, and `zograd.nn.backward`, which sees function values only.
- FO and CGE with the layer ratios of ZO-GraSP at 90 % sparsity.
- The same sparsity with other ratios, by FO, whose gradients are the same: `noise` are those of |w| times a normal
  number over the root of the layer's size (what DeepZero's released code computes), `uniform`, `magnitude`; and
  `importance`, which draws weights each step by their last gradients, with weights 1 / p, also at lower rates: what is
  unbiased is noisy.

``--scores`` compares ZO-GraSP's scores and ratios with GraSP's by autograd, at initialisation; and says how much of a
gradient's energy, its squared length, a tenth of the weights holds, for each way of choosing them.

    OMP_NUM_THREADS=1 python benchmarks/network_training.py --data DIR      # DIR/cifar10-jpeg.npz
"""

import argparse
import math
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
from _machine import machine, package
from _runner import GENERATED, RESULTS, Results, Row, sweep, table, write
from coordinates_or_directions import cifar10
from scipy.stats import spearmanr
from torch import Tensor, nn

import zograd as zo

KEY = ["gradient", "masks", "seed"]
FIELDS = [*KEY, "parameters", "accuracy", "loss", "epochs", "images", "seconds", "version", "machine"]
ARMS = [
    ("FO", "dense"), ("CGE", "dense"), ("FO", "grasp"), ("CGE", "grasp"),
    ("FO", "noise"), ("FO", "uniform"), ("FO", "magnitude"), ("FO", "importance"),
    ("FO", "importance, rate 0.03"), ("FO", "importance, rate 0.01"),
]  # fmt: skip
BATCH, EPOCHS, RATE, KEEP, SCORED = 128, 8, 0.1, 0.1, 250
Ratios = dict[str, float]


class Block(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer)
        self.conv2, self.bn2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False), nn.BatchNorm2d(outer)
        self.around = nn.Sequential() if stride == 1 else nn.Conv2d(inner, outer, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The block."""
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(out + self.around(x))


def resnet8() -> nn.Sequential:
    """Three blocks of 8, 16 and 32 channels."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        Block(8, 8, 1), Block(8, 16, 2), Block(16, 32, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def noise_scores(model: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """|w| times a normal number over the root of the layer's size: no information on the loss."""
    return {
        name: value * torch.randn(value.shape, generator=generator).abs() / math.sqrt(value.numel())
        for name, value in zo.nn.magnitude_scores(model).items()
    }


def autograd_scores(model: nn.Module, loss_fn, inputs: Tensor) -> dict[str, Tensor]:
    """GraSP with a Hessian-vector product of autograd."""
    names = list(zo.nn.magnitude_scores(model))
    weights = [dict(model.named_parameters())[name] for name in names]
    gradients = torch.autograd.grad(loss_fn(model(inputs)), weights, create_graph=True)
    products = torch.autograd.grad(sum((g * g.detach()).sum() for g in gradients), weights)
    return {name: -w.detach() * p for name, w, p in zip(names, weights, products, strict=True)}


def ratios_of(kind: str, model: nn.Module, sets: dict[str, tuple[Tensor, Tensor]], seed: int) -> Ratios | float:
    """A share for each layer."""
    if kind == "uniform":
        return KEEP
    if kind == "magnitude":
        return zo.nn.layer_ratios(zo.nn.magnitude_scores(model), KEEP, "highest")
    if kind == "noise":
        scores = noise_scores(model, torch.Generator().manual_seed(seed))
        return zo.nn.layer_ratios(scores, KEEP, "highest")
    x, y = sets["train"]
    loss_fn = partial(nn.functional.cross_entropy, target=y[:SCORED])
    return zo.nn.layer_ratios(zo.nn.grasp_scores(model, loss_fn, x[:SCORED]), KEEP)


def train(task: Row) -> Row:
    """One network."""
    torch.set_num_threads(1)
    began = time.process_time()
    seed = int(task["seed"])
    sets = cifar10(Path(task["data"]))
    torch.manual_seed(seed)
    model = resnet8()
    masks: zo.nn.Masks | None = None
    kind, _, rate = task["masks"].partition(", rate ")
    if kind == "importance":
        masks = zo.nn.ImportanceMasks(model, KEEP)
    elif kind != "dense":
        masks = zo.nn.RandomMasks(model, ratios_of(kind, model, sets, seed))
    optimizer = torch.optim.SGD(model.parameters(), lr=float(rate or RATE), momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * math.ceil(len(sets["train"][0]) / BATCH))
    trainer = zo.nn.Trainer(
        model, nn.functional.cross_entropy, optimizer, gradient="autograd" if task["gradient"] == "FO" else "auto",
        masks=masks, scheduler=scheduler, schedule="step", seed=seed, progress=False,
    )  # fmt: skip
    training = trainer.fit(sets["train"], epochs=EPOCHS, batch=BATCH)
    accuracy = 100 * trainer.evaluate(sets["test"])["accuracy"]  # once, at the end: nothing is chosen by it
    print(task["gradient"], task["masks"], seed, accuracy, flush=True)
    return {
        **{key: task[key] for key in KEY},
        "parameters": sum(p.numel() for p in model.parameters()), "accuracy": f"{accuracy:.2f}",
        "loss": f"{training.epochs[-1]['loss']:.4f}", "epochs": EPOCHS, "images": len(sets["train"][0]),
        "seconds": round(time.process_time() - began, 1), "version": package("torch"), "machine": machine(),
    }  # fmt: skip


def scores(folder: Path, seeds: int) -> None:
    """How ZO-GraSP's scores and ratios rank beside those of autograd, at initialisation."""
    x, y = cifar10(folder)["train"]
    x, loss_fn = x[:SCORED], partial(nn.functional.cross_entropy, target=y[:SCORED])
    found: dict[str, list[tuple[float, float, float]]] = {}
    layers: dict[str, list[dict[str, float]]] = {}
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = resnet8()
        right = autograd_scores(model, loss_fn, x)
        drawn = torch.Generator().manual_seed(seed)
        ways = {
            "ZO-GraSP, contraction, step 1e-1": zo.nn.grasp_scores(model, loss_fn, x, step=1e-1),
            "ZO-GraSP, contraction, step 1e-2": zo.nn.grasp_scores(model, loss_fn, x),
            "ZO-GraSP, contraction, step 1e-3": zo.nn.grasp_scores(model, loss_fn, x, step=1e-3),
            "ZO-GraSP, RGE with 192 directions": zo.nn.grasp_scores(
                model, loss_fn, x, estimator=zo.RandomGradient(192, step=1e-3), generator=drawn
            ),
            "noise": {name: -value for name, value in noise_scores(model, drawn).items()},
            "magnitude": {name: -value for name, value in zo.nn.magnitude_scores(model).items()},
        }
        flat, kept = flattened(right.values()), zo.nn.layer_ratios(right, KEEP)
        layers.setdefault("GraSP by autograd", []).append(kept)
        for way, got in ways.items():
            ratios = zo.nn.layer_ratios(got, KEEP)
            both = zip(kept.values(), ratios.values(), strict=True)
            found.setdefault(way, []).append((
                float(spearmanr(flat, flattened(got.values())).statistic),
                float(spearmanr(list(kept.values()), list(ratios.values())).statistic),
                max(abs(a - b) for a, b in both),
            ))  # fmt: skip
            layers.setdefault(way, []).append(ratios)
    rows = []
    for way, numbers in found.items():
        means = torch.tensor(numbers).mean(0).tolist()
        rows.append([way, f"{means[0]:.3f}", f"{means[1]:.3f}", f"{means[2]:.3f}"])
    head = ["scores", "rank correlation of scores", "of layer ratios", "largest difference of a ratio"]
    text = table(head, rows)
    shown = ["GraSP by autograd", "ZO-GraSP, contraction, step 1e-2", "ZO-GraSP, RGE with 192 directions", "noise"]
    body = [
        [name, *[f"{sum(one[name] for one in layers[way]) / seeds:.3f}" for way in shown]]
        for name in layers["noise"][0]
    ]
    write(GENERATED / "grasp_scores.md", f"{text}\n{table(['layer', *shown], body)}")


def energy(folder: Path, seeds: int) -> None:
    """What a tenth of the weights holds of the gradient's squared length, and the noise that unbiased weights bring."""
    sets = cifar10(folder)
    x, y = sets["train"]
    last, now = ((x[at : at + SCORED], y[at : at + SCORED]) for at in (0, SCORED))
    found: dict[str, list[list[float]]] = {}
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = resnet8()
        shares = {kind: ratios_of(kind, model, sets, seed) for kind in ("grasp", "noise", "magnitude", "uniform")}
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4)
        trainer = zo.nn.Trainer(
            model, nn.functional.cross_entropy, optimizer, gradient="autograd", seed=seed, progress=False
        )
        for _ in ("at initialisation", "after an epoch"):
            masks = zo.nn.ImportanceMasks(model, KEEP)
            index, (g, stale) = masks.index, (flat_gradient(model, *batch) for batch in (now, last))
            masks.observe(stale, zo.nn.Active(torch.arange(masks.total)))
            weights = nn.utils.parameters_to_vector(model.parameters()).detach()
            ways = {
                "the largest of this gradient": largest(g[index]),
                "the largest of another batch's": largest(stale[index]),
                "the largest weights": largest(weights[index]),
                "importance: by another batch's": masks.probabilities(),
            }
            for kind, kept in shares.items():
                flat = zo.nn.RandomMasks(model, kept)
                p = torch.zeros(masks.total, dtype=torch.float64)
                for name, ratio in flat.ratios.items():
                    p[flat.slices[name]] = ratio
                ways[f"random, ratios {kind}"] = p[index]
            squared = g[index].double().square()
            for way, p in ways.items():
                noise = (squared[p > 0] * (1 / p[p > 0] - 1)).sum() if bool((p > 0).all()) else torch.tensor(torch.nan)
                numbers = [float(100 * (squared * p).sum() / squared.sum()), float(noise / squared.sum())]
                found.setdefault(way, []).append(numbers)
            trainer.fit(sets["train"], epochs=1, batch=BATCH)
    rows = []
    for way, numbers in found.items():
        start, later = (torch.tensor(numbers[moment::2]).mean(0).tolist() for moment in (0, 1))
        shown = ["" if math.isnan(noise) else f"{noise:.1f}" for _, noise in (start, later)]
        rows.append([way, f"{start[0]:.1f}", f"{later[0]:.1f}", *shown])
    head = ["a tenth of the weights", "energy at initialisation, %", "after an epoch, %"]
    noises = ["variance with weights 1 / p, of the squared length", "after an epoch"]
    write(GENERATED / "gradient_energy.md", table([*head, *noises], rows))


def flat_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """All of it, by autograd."""
    loss = nn.functional.cross_entropy(model(x), y)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def largest(values: Tensor) -> Tensor:
    """1 for the tenth that is largest in magnitude, 0 for the others."""
    chosen = torch.zeros(len(values), dtype=torch.float64)
    chosen[values.abs().topk(round(KEEP * len(values))).indices] = 1.0
    return chosen


def flattened(values: Iterable[Tensor]) -> list[float]:
    """All in one list."""
    return torch.cat([value.flatten() for value in values]).tolist()


def report(results: Results) -> None:
    """The table for the documentation."""
    rows = []
    for gradient, masks in ARMS:
        mine = [row for row in results.rows if (row["gradient"], row["masks"]) == (gradient, masks)]
        if mine:
            got = torch.tensor([float(row["accuracy"]) for row in mine])
            spread = f"{got.std():.2f}" if len(got) > 1 else ""
            seconds = sum(float(row["seconds"]) for row in mine) / len(mine)
            rows.append([gradient, masks, len(mine), f"{got.mean():.2f}", spread, f"{seconds:.0f}"])
    results.rewrite([dict(row) for row in results.rows])
    head = ["gradient", "masks", "seeds", "test accuracy, %", "deviation between seeds", "seconds of one core"]
    write(GENERATED / "network_training.md", table(head, rows))


def main() -> None:
    """Train what is missing and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), help="where cifar10-jpeg.npz is")
    parser.add_argument("--scores", action="store_true", help="only compare scores")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    if not (given.data / "cifar10-jpeg.npz").exists():
        print(f"left out: {given.data}/cifar10-jpeg.npz is not there")
        return
    if given.scores:
        scores(given.data, given.seeds)
        energy(given.data, given.seeds)
        return
    results = Results(RESULTS / "network_training.csv", FIELDS, KEY)
    arms = [
        {"gradient": g, "masks": m, "seed": s, "data": str(given.data)} for s in range(given.seeds) for g, m in ARMS
    ]
    sweep(arms, train, results)
    report(results)


if __name__ == "__main__":
    main()
