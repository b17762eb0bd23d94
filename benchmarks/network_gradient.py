"""The gradient of ResNet-20's loss from function values: zograd beside DeepZero's released code, in one process.

The reference is run as it is, from a checkout of github.com/OPTML-Group/DeepZero given by ``--reference``: its
network, its block-wise feature reuse, one coordinate after the other. It would take an hour and more, so that a sample
of each block's coordinates is timed and multiplied. So are zograd's coordinate-wise differences.
Contraction, the forward pass and autograd are timed whole. Processor time is used, because it does not count what other
programs do on the machine.

    OMP_NUM_THREADS=1 python benchmarks/network_gradient.py --reference DeepZero
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _machine import machine, package
from _runner import GENERATED, RESULTS, Results, Row, table, write
from torch import Tensor, nn

import zograd as zo
from zograd.blackbox import ModuleLoss, TracedLoss

KEY = ["method", "mode", "batch", "threads", "repeat"]
FIELDS = [*KEY, "gradient", "seconds", "wall", "queries", "error", "gflop", "rate", "version", "machine"]
DENSE = 269_722
METHODS = (
    "forward pass",
    "autograd",
    "zograd contraction",
    "zograd reuse",
    "zograd plain",
    "DeepZero, block reuse",
    "DeepZero, no reuse",
)


class Block(nn.Module):
    """Two convolutions and a shortcut without parameters."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer)
        self.conv2, self.bn2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False), nn.BatchNorm2d(outer)
        self.stride, self.extra = stride, (outer - inner) // 2

    def forward(self, x: Tensor) -> Tensor:
        """The block."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra, self.extra))
        return F.relu(out + x)


def resnet20() -> nn.Module:
    """The network of He et al. (2016) for CIFAR-10, with 269,722 parameters."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    inner = 16
    for outer in (16, 32, 64):
        for _ in range(3):
            layers.append(Block(inner, outer, 1 if inner == outer else 2))
            inner = outer
    model = nn.Sequential(*layers, nn.AvgPool2d(8), nn.Flatten(), nn.Linear(64, 10))
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    return model


class Here:
    """What the reference expects of a remote reference, here."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def to_here(self) -> Tensor:
        """The value."""
        return self.value


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Processor seconds, wall seconds, result."""
    began, wall = time.process_time(), time.perf_counter()
    found = work()
    return time.process_time() - began, time.perf_counter() - wall, found


def problem(batch: int, mode: str) -> tuple[nn.Module, Tensor, Callable[[Tensor], Tensor]]:
    """The network in its mode, a batch of noise, the loss: what they are does not change the time."""
    torch.manual_seed(0)
    model = resnet20()
    x, target = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))
    with torch.no_grad():
        model(x)
    return model.train(mode == "train"), x, lambda output: F.cross_entropy(output, target)


def by_autograd(model: nn.Module, x: Tensor, loss_fn: Callable[[Tensor], Tensor]) -> Tensor:
    """The gradient, flat."""
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss_fn(model(x)), list(model.parameters()))])


def ours(row: Row, sample: int) -> Row:
    """One of zograd's methods, the forward pass or autograd."""
    model, x, loss_fn = problem(int(row["batch"]), row["mode"])
    method = row["method"]
    if method == "forward pass":
        with torch.no_grad():
            loss_fn(model(x))
            seconds, wall, _ = timed(lambda: loss_fn(model(x)))
        return {"gradient": "none", "seconds": seconds, "wall": wall, "queries": 1}
    if method == "autograd":
        by_autograd(model, x, loss_fn)
        seconds, wall, _ = timed(lambda: by_autograd(model, x, loss_fn))
        return {"gradient": "dense", "seconds": seconds, "wall": wall, "queries": 0}
    if method == "zograd contraction":
        expected = by_autograd(model, x, loss_fn)
        zo.nn.backward(model, loss_fn, x)  # checks the record; later calls do not
        model.zero_grad()
        seconds, wall, _ = timed(lambda: zo.nn.backward(model, loss_fn, x))
        found = torch.cat([p.grad.flatten() for p in model.parameters()])
        error = float((found - expected).norm() / expected.norm())
        plan = zo.nn.plan(model, loss_fn, x)
        plan.backward()
        flop = plan.totals["plain"].flops / (2 * DENSE)
        return {
            "gradient": "dense", "seconds": seconds, "wall": wall, "queries": plan.cost.queries, "error": error,
            "gflop": 3 * flop / 1e9, "rate": peak(),
        }  # fmt: skip
    return _coordinates(model, x, loss_fn, sample, method == "zograd reuse")


def _coordinates(model: nn.Module, x: Tensor, loss_fn: Callable[[Tensor], Tensor], sample: int, reuse: bool) -> Row:
    """Forward differences: one row a coordinate, a sample of each parameter's timed and multiplied."""
    plain = ModuleLoss(model, loss_fn, x, list(model.parameters()))
    box = TracedLoss(plain, relative=True) if reuse else plain
    generator = torch.Generator().manual_seed(0)
    total = together = 0.0
    start = 0
    for parameter in plain.parameters if reuse else plain.parameters[:1]:
        index = start + torch.randint(parameter.numel(), (sample,), generator=generator)
        probes = zo.Probes(plain.center, zo.Coordinates(index, torch.full((sample,), 5e-3)))
        seconds, wall, _ = timed(lambda probes=probes: box.probe(probes))
        share = parameter.numel() if reuse else DENSE
        total += seconds / sample * share
        together += wall / sample * share
        start += parameter.numel()
    return {"gradient": "dense, extrapolated", "seconds": total, "wall": together, "queries": DENSE}


def reference(row: Row, sample: int, folder: Path) -> Row:
    """The released code on a sample of each block's coordinates."""
    sys.path.insert(0, str(folder))
    from algorithm.zoo.tools import weighted_allocate  # noqa: F401  (the package imports as a whole or not at all)
    from models.distributed_model import DistributedCGEModel
    from models.resnet_s import param_name_to_module_id_rn20
    from models.resnet_s import resnet20 as theirs

    torch.manual_seed(0)
    reuse = row["method"].endswith("block reuse")
    worker = DistributedCGEModel("cpu", theirs, F.cross_entropy, param_name_to_module_id_rn20, None, False, reuse)
    worker.network.train(row["mode"] == "train")
    batch = int(row["batch"])
    x, target = Here(torch.randn(batch, 3, 32, 32)), Here(torch.randint(10, (batch,)))
    parameters = dict(worker.network.named_parameters())
    names = list({id(p): name for name, p in parameters.items() if "splited" not in name}.values())
    worker.set_params_to_be_perturbed(Here(torch.zeros(0, 2)), names)
    generator = torch.Generator().manual_seed(0)
    blocks: dict[int, list[int]] = {}
    for place, name in enumerate(names):
        blocks.setdefault(param_name_to_module_id_rn20(name), []).append(place)
    total = together = 0.0
    worker.instruction = torch.zeros(0, 2).long()
    with torch.no_grad():
        worker.network(x.value)  # the first call reserves memory
    began = timed(lambda: worker.calculate_grads(x, target, 5e-3))  # the features alone, once a gradient
    for places in blocks.values() if reuse else [list(range(len(names)))]:
        sizes = torch.tensor([parameters[names[place]].numel() for place in places])
        drawn = torch.multinomial(sizes.float(), sample, True, generator=generator)
        rows = [[places[d], int(torch.randint(int(sizes[d]), (), generator=generator))] for d in drawn.tolist()]
        worker.instruction = torch.tensor(rows)
        seconds, wall, _ = timed(lambda: worker.calculate_grads(x, target, 5e-3))
        total += max(0.0, seconds - began[0]) / sample * int(sizes.sum())
        together += max(0.0, wall - began[1]) / sample * int(sizes.sum())
    return {
        "gradient": "dense, extrapolated", "seconds": total + began[0], "wall": together + began[1], "queries": DENSE,
    }  # fmt: skip


def work(row: Row, sample: int, folder: Path | None) -> Row:
    """Fill one row."""
    torch.set_num_threads(int(row["threads"]))
    theirs = row["method"].startswith("DeepZero")
    found = reference(row, sample, folder) if theirs and folder is not None else ours(row, sample)
    version = "DeepZero 2024" if theirs else f"{package('zograd')}, {package('torch')}"
    filled = {"error": "", "gflop": "", "rate": "", **row, **found, "version": version, "machine": machine()}
    for name in ("seconds", "wall", "gflop", "rate", "error"):
        filled[name] = f"{filled[name]:.4g}" if filled[name] != "" else ""
    print({k: filled[k] for k in ("method", "mode", "seconds", "wall", "error")}, flush=True)
    return filled


def page(results: Results) -> str:
    """The table of the documentation: the least of the repeats."""
    best: dict[tuple[str, str, str], Row] = {}
    for row in results.rows:
        key = (row["mode"], row["batch"], row["method"])
        if key not in best or float(row["seconds"]) < float(best[key]["seconds"]):
            best[key] = row
    lines = ["<!-- made by benchmarks/network_gradient.py -->", ""]
    lines += [
        "Dense gradient of ResNet-20 (269,722 parameters), 32-bit floats: processor seconds on one thread, the least of"
        " the repeats.",
        "Rows marked * are a timed sample of the coordinates of every layer, multiplied.",
        "",
    ]
    for mode in sorted({row["mode"] for row in results.rows}, reverse=True):
        some = {method: row for (m, _, method), row in best.items() if m == mode}
        if "forward pass" not in some:
            continue
        unit = float(some["forward pass"]["seconds"])
        theirs = some.get("DeepZero, block reuse")
        cells = []
        for method in METHODS:
            if method not in some:
                continue
            seconds = float(some[method]["seconds"])
            star = "*" if "extrapolated" in some[method]["gradient"] else ""
            faster = f"{float(theirs['seconds']) / seconds:,.1f}" if theirs and method != "forward pass" else ""
            error = some[method]["error"] or ""
            cells.append([method + star, f"{seconds:,.3g}", f"{seconds / unit:,.3g}", faster, error])
        lines += [f"### BatchNorm in {'training' if mode == 'train' else 'evaluation'} mode, batch of 64", ""]
        header = ["method", "seconds", "forward passes", "times as fast as the reference", "relative error"]
        lines += [table(header, cells)]
    contraction = next((row for row in results.rows if row["gflop"]), None)
    if contraction is not None:
        rate = float(contraction["rate"])
        lines += [
            "The floor: three products of the size of the forward pass (values, sensitivities, weights) are"
            f" {contraction['gflop']} GFLOP. At the {rate:.0f} GFLOP/s that a large matrix product reaches on this"
            f" thread that is {float(contraction['gflop']) / rate:.2f} s.",
            "",
        ]
    lines += ["### Machine and versions", "", *sorted({f"- {r['machine']}; {r['version']}" for r in results.rows})]
    return "\n".join(lines)


def peak() -> float:
    """GFLOP/s of a large matrix product, the best of five."""
    a = torch.randn(1024, 1024)
    return max(2 * 1024**3 / timed(lambda: a @ a)[0] / 1e9 for _ in range(5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="a checkout of DeepZero; without it the reference is left out")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sample", type=int, default=6, help="coordinates timed in each layer or block")
    parser.add_argument("--results", type=Path, default=RESULTS / "network_gradient.csv")
    parser.add_argument("--page", type=Path, default=GENERATED / "network_gradient.md")
    arguments = parser.parse_args()
    results = Results(arguments.results, FIELDS, KEY)
    methods = [m for m in METHODS if arguments.reference or not m.startswith("DeepZero")]
    known = {results.name(row) for row in results.rows}
    for repeat in range(arguments.repeats):
        for mode in ("train", "eval"):
            for method in methods:
                row = {
                    "method": method, "mode": mode, "batch": arguments.batch, "threads": arguments.threads,
                    "repeat": repeat,
                }  # fmt: skip
                if results.name(row) not in known:
                    results.append(work(row, arguments.sample, arguments.reference))
    results.rewrite(list(results.rows))
    write(arguments.page, page(results))


if __name__ == "__main__":
    main()
