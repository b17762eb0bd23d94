"""Coordinates (CGE), random directions (RGE) and backpropagation (FO) at equal queries: the paper's small CNN.

DeepZero's figure 1 on what two cores manage: the same networks (width 18, 3 x 3 convolutions, depth 1 to 5, hence 730
to 12,610 parameters), q = d queries a gradient, and one set of settings for all (SGD, 0.1, momentum 0.9, cosine):

- CIFAR-10: 10,000 images at 16 x 16 pixels, 5 epochs, tested on 4,000;
- MNIST: 10,000 images at 14 x 14 pixels, 3 epochs, tested on 10,000;
- digits: scikit-learn's, 1,437 images of 8 x 8 pixels, 5 epochs, tested on the other 360. These need no file.

Grey images are given three times, so that the sizes are the paper's. Accuracies are of the last epoch, in eval mode.

CGE is `zograd.nn.backward`: function values only, the same gradient as a pass for each coordinate. RGE with q = d would
take d passes a step. Its law for a small step and Gaussian directions is known, and is drawn from instead: with g the
gradient of the batch, c^2 from chi-squared with q degrees of freedom and z normal and orthogonal to g, the estimate is
(c^2 g + c |g| z) / q. That this is what queries give is checked where they can be paid for: ``RGE, queried`` trains on
the digits with `zograd.backward` and `RandomGradient`, d + 1 forward passes a step, with the same batches. For both,
the length of every estimate is compared with that of its batch's gradient, and the angle between them is taken.

    OMP_NUM_THREADS=1 python benchmarks/coordinates_or_directions.py --data DIR   # DIR/cifar10-jpeg.npz, DIR/mnist
"""

import argparse
import copy
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from _machine import machine, package
from _runner import GENERATED, RESULTS, ROOT, STATIC, Results, Row, sweep, table, write
from sklearn.datasets import load_digits
from torch import Tensor, nn

import zograd as zo

KEY = ["data", "method", "depth", "seed"]
FIELDS = [
    *KEY,
    "parameters",
    "accuracy",
    "loss",
    "length",
    "cosine",
    "epochs",
    "images",
    "seconds",
    "version",
    "machine",
]
PAPER = {
    "FO": (42.09, 60.47, 70.69, 76.64, 77.01),
    "CGE": (41.65, 59.66, 70.04, 76.07, 76.95),
    "RGE": (37.53, 50.06, 65.31, 70.05, 68.38),
}
QUERIED = "RGE, queried"
DEPTHS, QUERIED_DEPTHS = (1, 2, 3, 4, 5), (1, 2)
EPOCHS = {"CIFAR-10": 5, "MNIST": 3, "digits": 5}
FILES = {"CIFAR-10": "cifar10-jpeg.npz", "MNIST": "mnist"}
IMAGES, TESTS, BATCH, RATE, WIDTH, STEP = 10_000, 4_000, 128, 0.1, 18, 1e-3
Sets = dict[str, tuple[Tensor, Tensor]]


def cnn(depth: int, width: int = WIDTH) -> nn.Sequential:
    """The paper's network: convolution, BatchNorm, ReLU, pooling, so many times; mean; linear.

    Pooling rounds up, so that images that are small already go through all of it.
    """
    layers: list[nn.Module] = []
    for at in range(depth):
        layers += [nn.Conv2d(width if at else 3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2, ceil_mode=True)]
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


def flat_gradient(model: nn.Module, inputs: Tensor, loss_fn: Callable[[Tensor], Tensor]) -> Tensor:
    """By autograd."""
    return nn.utils.parameters_to_vector(torch.autograd.grad(loss_fn(model(inputs)), list(model.parameters())))


def length_and_cosine(estimate: Tensor, gradient: Tensor) -> Tensor:
    """The length of an estimate over the gradient's, and the cosine between them, for each row."""
    length = estimate.norm(dim=-1)
    return torch.stack([length / gradient.norm(), estimate @ gradient / length / gradient.norm()], -1)


def cifar10(folder: Path) -> Sets:
    """Halved images with mean 0 and deviation 1, of the training images."""
    found = {}
    for split, count in (("train", IMAGES), ("test", TESTS)):
        images, labels = zo.nn.read_jpegs(folder / FILES["CIFAR-10"], split, count)
        found[split] = (nn.functional.avg_pool2d(images, 2), labels)
    return normalised(found)


def mnist(folder: Path) -> Sets:
    """Halved images, three times."""
    found = {}
    for split, count in (("train", IMAGES), ("test", None)):
        images, labels = zo.nn.read_mnist(folder / FILES["MNIST"], split == "train")
        found[split] = (nn.functional.avg_pool2d(images[:count], 2).expand(-1, 3, -1, -1), labels[:count])
    return normalised(found)


def digits(folder: Path) -> Sets:
    """Scikit-learn's digits in an order of chance, three times; the last fifth is for testing."""
    loaded = load_digits()
    order = torch.randperm(len(loaded.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(loaded.images, dtype=torch.float32)[order, None].expand(-1, 3, -1, -1)
    labels, most = torch.tensor(loaded.target)[order], len(order) * 4 // 5
    return normalised({"train": (images[:most], labels[:most]), "test": (images[most:], labels[most:])})


def normalised(found: Sets) -> Sets:
    """Each channel with mean 0 and deviation 1, of the training images."""
    mean, deviation = (f(found["train"][0], (0, 2, 3), keepdim=True) for f in (torch.mean, torch.std))
    return {split: ((x - mean) / deviation, y) for split, (x, y) in found.items()}


LOADERS = {"CIFAR-10": cifar10, "MNIST": mnist, "digits": digits}


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
    sets = LOADERS[task["data"]](Path(task["folder"]))
    x, y = sets["train"]
    torch.manual_seed(int(task["seed"]))
    # All methods see the same batches; what directions draw is no part of it.
    order, generator = (torch.Generator().manual_seed(int(task["seed"]) + apart) for apart in (0, 1000))
    model = cnn(int(task["depth"]))
    parameters = list(model.parameters())
    d = sum(p.numel() for p in parameters)
    queries = zo.RandomGradient(d, step=STEP, directions="gaussian", central=False)
    optimizer = torch.optim.SGD(parameters, lr=RATE, momentum=0.9, weight_decay=5e-4)
    epochs = EPOCHS[task["data"]]
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * math.ceil(len(x) / BATCH))
    loss, beside = torch.tensor(0.0), []
    for _ in range(epochs):
        for at in torch.randperm(len(x), generator=order).split(BATCH):
            inputs, labels = x[at], y[at]
            loss_fn = partial(nn.functional.cross_entropy, target=labels)
            optimizer.zero_grad()
            if task["method"] == "CGE":
                loss = zo.nn.backward(model, loss_fn, inputs)
            elif task["method"] == QUERIED:
                gradient = flat_gradient(copy.deepcopy(model), inputs, loss_fn)  # to compare with; no step sees it
                loss = zo.backward(model, loss_fn, inputs, estimator=queries, generator=generator)
                estimate = nn.utils.parameters_to_vector([p.grad for p in parameters if p.grad is not None])
                beside.append(length_and_cosine(estimate, gradient))
            else:
                loss = loss_fn(model(inputs))
                loss.backward()
            if task["method"] == "RGE":
                gradient = nn.utils.parameters_to_vector([p.grad for p in parameters if p.grad is not None])
                estimate = random_estimate(gradient, d, generator)
                beside.append(length_and_cosine(estimate, gradient))
                for p, piece in zip(parameters, estimate.split([p.numel() for p in parameters]), strict=True):
                    p.grad = piece.view_as(p).clone()
            optimizer.step()
            scheduler.step()
    length, cosine = [f"{value:.4f}" for value in torch.stack(beside).mean(0)] if beside else ["", ""]
    result = accuracy(model, *sets["test"])
    seconds = time.process_time() - began
    print(*(task[name] for name in KEY), f"{result:.2f} %, {seconds:.0f} s", flush=True)
    return {
        **{key: task[key] for key in KEY}, "parameters": d, "accuracy": f"{result:.2f}",
        "loss": f"{float(loss.detach()):.4f}", "length": length, "cosine": cosine,
        "epochs": epochs, "images": len(x), "seconds": round(seconds, 1),
        "version": package("torch"), "machine": machine(),
    }  # fmt: skip


def found(rows: Iterable[Row], data: str, method: str, depth: int, column: str = "accuracy") -> list[float]:
    """The numbers of all seeds."""
    wanted = (data, method, str(depth))
    return [float(row[column]) for row in rows if row[column] and (row["data"], row["method"], row["depth"]) == wanted]


def report(results: Results) -> None:
    """The tables for the documentation: over depth, and what real queries give beside the law."""
    results.rewrite([dict(row) for row in results.rows])
    rows, both = [], []
    for data, depth in itertools.product(LOADERS, DEPTHS):
        get = partial(found, results.rows, data, depth=depth)
        size = sum(p.numel() for p in cnn(depth).parameters())
        cells = [spread(get(method)) for method in PAPER]
        if data == "CIFAR-10":
            cells = [f"{cell} ({PAPER[method][depth - 1]:.1f})" for method, cell in zip(PAPER, cells, strict=True)]
        if get("FO"):
            rows.append([data, depth, size, len(get("FO")), *cells])
        if get(QUERIED):
            for method in (*PAPER, QUERIED):
                numbers = [spread(get(method, column="length"), 3), spread(get(method, column="cosine"), 3)]
                both.append([depth, size, method, len(get(method)), spread(get(method)), *numbers])
    head = ["data", "depth", "parameters", "seeds"]
    text = table([*head, *[f"{method}, % (paper)" for method in PAPER]], rows)
    write(GENERATED / "coordinates_or_directions.md", text)
    if both:
        head = ["depth", "parameters", "gradient", "seeds", "accuracy, %", "length / length of g", "cosine with g"]
        write(GENERATED / "random_directions_queried.md", table(head, both))


def spread(numbers: list[float], places: int = 1) -> str:
    """Mean and deviation between seeds."""
    values = torch.tensor(numbers)
    deviation = f" ± {values.std():.{places}f}" if len(numbers) > 1 else ""
    return f"{values.mean():.{places}f}{deviation}" if numbers else ""


def picture(rows: list[Row]) -> None:
    """Accuracy over depth: the paper's figure beside ours."""
    sys.path.append(str(ROOT / "docs" / "scripts"))
    import _style
    from matplotlib import pyplot

    colors = {"FO": _style.INK, "CGE": _style.BLUE, "RGE": _style.ORANGE, QUERIED: _style.RED}
    shown = [data for data in LOADERS if any(row["data"] == data for row in rows)]
    figure, panels = pyplot.subplots(1, 1 + len(shown), figsize=(3.1 * (1 + len(shown)), 3.3), squeeze=False)
    first, *others = panels[0]
    for method, published in PAPER.items():
        first.plot(DEPTHS, published, "--" if method == "FO" else "-", color=colors[method], marker="o", ms=4)
    first.set(title="DeepZero, figure 1: CIFAR-10", xlabel="depth", ylabel="test accuracy, %", xticks=DEPTHS)
    for axes, data in zip(others, shown, strict=True):
        for method, color in colors.items():
            every = {depth: torch.tensor(found(rows, data, method, depth)) for depth in DEPTHS}
            every = {depth: values for depth, values in every.items() if len(values)}
            means = [float(values.mean()) for values in every.values()]
            errors = [float(values.std()) if len(values) > 1 else 0.0 for values in every.values()]
            style = {"FO": "o--", QUERIED: "x"}.get(method, "o-")
            axes.errorbar(list(every), means, errors, fmt=style, color=color, ms=9 if style == "x" else 4,
                          capsize=2, label=method, zorder=4 if style == "x" else 2)  # fmt: skip
        axes.set(title=f"{data}, ours", xlabel="depth", xticks=DEPTHS)
    handles, labels = others[-1].get_legend_handles_labels()
    first.legend(handles, labels, loc="lower right")
    _style.save(figure, "coordinates_or_directions", STATIC)


def main() -> None:
    """Train what is missing and write the tables and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="where cifar10-jpeg.npz and mnist are")
    parser.add_argument("--sets", nargs="+", choices=tuple(LOADERS), default=list(LOADERS))
    parser.add_argument("--methods", nargs="+", choices=(*PAPER, QUERIED), default=[*PAPER, QUERIED])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--depths", type=int, nargs="+", default=list(DEPTHS))
    parser.add_argument("--queried-depths", type=int, nargs="+", default=list(QUERIED_DEPTHS))
    given = parser.parse_args()
    sets = [name for name in given.sets if name not in FILES or (given.data / FILES[name]).exists()]
    for name in sorted(set(given.sets) - set(sets)):
        print(f"left out: {given.data / FILES[name]} is not there")
    results = Results(RESULTS / "coordinates_or_directions.csv", FIELDS, KEY)
    tasks = [
        {"data": data, "method": method, "depth": depth, "seed": seed, "folder": str(given.data)}
        for seed in range(given.seeds)
        for data in sets
        for depth in given.depths
        for method in given.methods
        # d queries a step are too many for the other data, and for larger networks.
        if method != QUERIED or (data == "digits" and depth in given.queried_depths)
    ]
    sweep(tasks, train, results)
    report(results)
    picture(results.rows)


if __name__ == "__main__":
    main()
