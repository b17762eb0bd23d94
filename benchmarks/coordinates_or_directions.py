"""Coordinates (CGE), random directions (RGE) and backpropagation (FO) at equal queries: the paper's small CNN.

DeepZero's figure 1 on what two cores manage: the same network (width 18, 3 x 3 convolutions, depth 1 to 4, hence 730 to
9,640 parameters), 10,000 images of CIFAR-10 at 16 x 16 pixels, one set of settings for all, q = d queries a
gradient. Accuracies are of the last epoch on 4,000 test images, in eval mode.

CGE is `zograd.nn.backward`: function values only, the same gradient as a pass for each coordinate. RGE with q = d would
take d passes a step. Its law for a small step and Gaussian directions is known, and is drawn from instead: with g the
gradient of the batch, c^2 from chi-squared with q degrees of freedom and z normal and orthogonal to g, the estimate is
(c^2 g + c |g| z) / q. ``--check`` compares that with directions really drawn and function values really taken.

    OMP_NUM_THREADS=1 python benchmarks/coordinates_or_directions.py --data DIR      # DIR/cifar10-jpeg.npz
"""

import argparse
import math
import time
from functools import partial
from pathlib import Path

import torch
from _machine import machine, package
from _runner import GENERATED, RESULTS, Results, Row, sweep, table, write
from torch import Tensor, nn

import zograd as zo

KEY = ["method", "depth", "seed"]
FIELDS = [*KEY, "parameters", "accuracy", "loss", "epochs", "images", "seconds", "version", "machine"]
PAPER = {
    "FO": (42.09, 60.47, 70.69, 76.64, 77.01),
    "CGE": (41.65, 59.66, 70.04, 76.07, 76.95),
    "RGE": (37.53, 50.06, 65.31, 70.05, 68.38),
}
IMAGES, TESTS, BATCH, EPOCHS, RATE, WIDTH = 10_000, 4_000, 128, 5, 0.1, 18


def cnn(depth: int, width: int = WIDTH) -> nn.Sequential:
    """The paper's network: convolution, BatchNorm, ReLU, pooling, so many times; mean; linear."""
    layers: list[nn.Module] = []
    for at in range(depth):
        layers += [nn.Conv2d(width if at else 3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def random_estimate(gradient: Tensor, queries: int, generator: torch.Generator) -> Tensor:
    """A draw of what so many Gaussian directions estimate in place of ``gradient``, for a small step."""
    d = len(gradient)
    # chi-squared: the squared length of so many normal numbers.
    squared = torch.randn(queries, generator=generator).square().sum()
    unit = gradient / gradient.norm()
    z = torch.randn(d, generator=generator)
    z -= (z @ unit) * unit
    return (squared * gradient + squared.sqrt() * gradient.norm() * z) / queries


def data(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Halved images with mean 0 and deviation 1, of the training images."""
    found = {}
    for split, count in (("train", IMAGES), ("test", TESTS)):
        images, labels = zo.nn.read_jpegs(folder / "cifar10-jpeg.npz", split, count)
        found[split] = (nn.functional.avg_pool2d(images, 2), labels)
    mean, deviation = (f(found["train"][0], (0, 2, 3), keepdim=True) for f in (torch.mean, torch.std))
    return {split: ((x - mean) / deviation, y) for split, (x, y) in found.items()}


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """In percent, in eval mode."""
    model.eval()
    with torch.no_grad():
        right = sum(int((model(a).argmax(1) == b).sum()) for a, b in zip(x.split(500), y.split(500), strict=True))
    model.train()
    return 100 * right / len(y)


def train(task: Row) -> Row:
    """One network."""
    torch.set_num_threads(1)
    began = time.process_time()
    sets = data(Path(task["data"]))
    x, y = sets["train"]
    torch.manual_seed(int(task["seed"]))
    generator = torch.Generator().manual_seed(int(task["seed"]))
    model = cnn(int(task["depth"]))
    parameters = list(model.parameters())
    d = sum(p.numel() for p in parameters)
    optimizer = torch.optim.SGD(parameters, lr=RATE, momentum=0.9, weight_decay=5e-4)
    steps = EPOCHS * math.ceil(IMAGES / BATCH)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    loss = torch.tensor(0.0)
    for _ in range(EPOCHS):
        for at in torch.randperm(IMAGES, generator=generator).split(BATCH):
            inputs, labels = x[at], y[at]
            optimizer.zero_grad()
            if task["method"] == "CGE":
                loss = zo.nn.backward(model, partial(nn.functional.cross_entropy, target=labels), inputs)
            else:
                loss = nn.functional.cross_entropy(model(inputs), labels)
                loss.backward()
            if task["method"] == "RGE":
                gradient = nn.utils.parameters_to_vector([p.grad for p in parameters if p.grad is not None])
                estimate = random_estimate(gradient, d, generator)
                for p, piece in zip(parameters, estimate.split([p.numel() for p in parameters]), strict=True):
                    p.grad = piece.view_as(p).clone()
            optimizer.step()
            scheduler.step()
    result = accuracy(model, *sets["test"])
    print(task["method"], task["depth"], task["seed"], result, flush=True)
    return {
        **{key: task[key] for key in KEY}, "parameters": d, "accuracy": f"{result:.2f}",
        "loss": f"{float(loss.detach()):.4f}",
        "epochs": EPOCHS, "images": IMAGES, "seconds": round(time.process_time() - began, 1),
        "version": package("torch"), "machine": machine(),
    }  # fmt: skip


def check(folder: Path, draws: int = 6) -> None:
    """The law that RGE is drawn from beside RGE from function values, at depth 1: mean length and cosine."""
    torch.manual_seed(0)
    x, y = data(folder)["train"]
    inputs, labels = x[:BATCH], y[:BATCH]
    model = cnn(1).eval().double()
    parameters = dict(model.named_parameters())
    sizes = [p.numel() for p in parameters.values()]
    nn.functional.cross_entropy(model(inputs.double()), labels).backward()
    gradient = nn.utils.parameters_to_vector([p.grad for p in parameters.values() if p.grad is not None])
    center = nn.utils.parameters_to_vector(parameters.values()).detach()

    def loss(flat: Tensor) -> Tensor:
        moved = {n: v.view_as(p) for (n, p), v in zip(parameters.items(), flat.split(sizes), strict=True)}
        return nn.functional.cross_entropy(torch.func.functional_call(model, moved, inputs.double()), labels)

    generator = torch.Generator().manual_seed(0)
    found: dict[str, list[Tensor]] = {"function values": [], "law": []}
    with torch.no_grad():
        for _ in range(draws):
            directions = torch.randn(len(center), len(center), generator=generator).double()
            slopes = torch.stack([(loss(center + 1e-5 * u) - loss(center)) / 1e-5 for u in directions])
            found["function values"].append(slopes @ directions / len(center))
        found["law"] = [random_estimate(gradient.float(), len(center), generator).double() for _ in range(1000)]
    rows = []
    for name, estimates in found.items():
        both = torch.stack(estimates)
        length = both.norm(dim=1) / gradient.norm()
        cosine = both @ gradient / both.norm(dim=1) / gradient.norm()
        rows.append([name, len(both), f"{length.mean():.3f}", f"{length.std():.3f}", f"{cosine.mean():.3f}",
                     f"{cosine.std():.3f}"])  # fmt: skip
    head = ["RGE by", "draws", "length / length of g", "deviation", "cosine with g", "deviation"]
    write(GENERATED / "random_directions_law.md", table(head, rows))


def report(results: Results) -> None:
    """The table for the documentation."""
    rows = []
    for depth in sorted({int(row["depth"]) for row in results.rows}):
        mine = [row for row in results.rows if int(row["depth"]) == depth]
        cells = []
        for method, published in PAPER.items():
            found = torch.tensor([float(row["accuracy"]) for row in mine if row["method"] == method])
            cells += [f"{found.mean():.1f}" if len(found) else "", f"{published[depth - 1]:.1f}"]
        rows.append([depth, mine[0]["parameters"], len({row["seed"] for row in mine}), *cells])
    head = ["depth", "parameters", "seeds", *[f"{m}{end}" for m in PAPER for end in (", %", " (paper), %")]]
    results.rewrite([dict(row) for row in results.rows])
    write(GENERATED / "coordinates_or_directions.md", table(head, rows))


def main() -> None:
    """Train what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), help="where cifar10-jpeg.npz is")
    parser.add_argument("--check", action="store_true", help="compare RGE's law with function values")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--depths", type=int, nargs="+", default=[1, 2, 3, 4])
    given = parser.parse_args()
    if not (given.data / "cifar10-jpeg.npz").exists():
        print(f"left out: {given.data}/cifar10-jpeg.npz is not there")
        return
    if given.check:
        check(given.data)
        return
    results = Results(RESULTS / "coordinates_or_directions.csv", FIELDS, KEY)
    tasks = [
        {"method": method, "depth": depth, "seed": seed, "data": str(given.data)}
        for seed in range(given.seeds)
        for depth in given.depths
        for method in PAPER
    ]
    sweep(tasks, train, results)
    report(results)


if __name__ == "__main__":
    main()
