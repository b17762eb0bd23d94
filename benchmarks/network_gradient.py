"""The gradient of ResNet-20's loss from function values: zograd beside DeepZero's released code, in one process.

The reference is run as it is, from a checkout of github.com/OPTML-Group/DeepZero given by ``--reference``: its
network, its block-wise feature reuse, one coordinate after the other. It would take an hour and more, so that a sample
of each block's coordinates is timed and multiplied. So are zograd's coordinate-wise differences.
Contraction, the forward pass and autograd are timed whole. Processor time is used on a processor, because it does not
count what other programs do on the machine; on a GPU the time until the last of its kernels has ended.

    OMP_NUM_THREADS=1 python benchmarks/network_gradient.py --reference DeepZero
    python benchmarks/network_gradient.py --reference DeepZero --device cuda     # batches of 512 and 64, 16 bits too

``--sample 0`` takes all coordinates, and nothing is multiplied then. The reference has no form in 16 bits: the
difference of two losses is lost in their rounding. zograd pushes the differences themselves through the network.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _machine import machine, package
from _resnet20 import DENSE, resnet20
from _runner import GENERATED, RESULTS, Results, Row, table, write
from torch import Tensor, nn

import zograd as zo
from zograd.blackbox import ModuleLoss, TracedLoss

KEY = ["device", "method", "mode", "batch", "threads", "repeat"]
FIELDS = [*KEY, "gradient", "seconds", "wall", "queries", "error", "gflop", "rate", "version", "machine"]
HALF = ", bfloat16"
METHODS = (
    "forward pass",
    "autograd",
    "zograd contraction",
    "zograd reuse",
    "zograd plain",
    "DeepZero, block reuse",
    "DeepZero, no reuse",
)
HALVES = ("forward pass" + HALF, "autograd" + HALF, "zograd contraction" + HALF, "zograd reuse" + HALF)
BATCHES = {"cpu": [64], "cuda": [512, 64]}
SAMPLES = {"cpu": 6, "cuda": 256}
STEP = 2.0**-8  # a number of 16 bits too, beside the reference's 5e-3


class Here:
    """What the reference expects of a remote reference, here."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def to_here(self) -> Tensor:
        """The value."""
        return self.value


def timed(work: Callable[[], Any], device: str = "cpu") -> tuple[float, float, Any]:
    """Seconds, wall seconds, result; on a processor the first are its own, on a GPU both are the same."""

    def ended() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    ended()
    began, wall = time.process_time(), time.perf_counter()
    found = work()
    ended()
    spent, passed = time.process_time() - began, time.perf_counter() - wall
    return (passed if device == "cuda" else spent), passed, found


def problem(
    batch: int, mode: str, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[nn.Module, Tensor, Callable[[Tensor], Tensor]]:
    """The network in its mode, a batch of noise, the loss: what they are does not change the time."""
    torch.manual_seed(0)
    model = resnet20()
    x, target = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))
    with torch.no_grad():
        model(x)
    target = target.to(device)
    model = model.train(mode == "train").to(device, dtype)
    return model, x.to(device, dtype), lambda output: F.cross_entropy(output, target)


def by_autograd(model: nn.Module, x: Tensor, loss_fn: Callable[[Tensor], Tensor]) -> Tensor:
    """The gradient, flat."""
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss_fn(model(x)), list(model.parameters()))])


def ours(row: Row, sample: int) -> Row:
    """One of zograd's methods, the forward pass or autograd; errors are against autograd in 32 bits."""
    half, device = row["method"].endswith(HALF), row["device"]
    method, setting = row["method"].removesuffix(HALF), (int(row["batch"]), row["mode"], device)
    expected = None if method == "forward pass" else by_autograd(*problem(*setting))
    model, x, loss_fn = problem(*setting, torch.bfloat16 if half else torch.float32)
    if method == "forward pass":
        with torch.no_grad():
            loss_fn(model(x))
            seconds, wall, _ = timed(lambda: loss_fn(model(x)), device)
        return {"gradient": "none", "seconds": seconds, "wall": wall, "queries": 1}
    if method == "autograd":
        by_autograd(model, x, loss_fn)
        seconds, wall, got = timed(lambda: by_autograd(model, x, loss_fn), device)
        found = {"gradient": "dense", "seconds": seconds, "wall": wall, "queries": 0}
        return {**found, "error": relative_error(got, expected)} if half else found
    if method == "zograd contraction":
        zo.nn.backward(model, loss_fn, x)  # checks the record; later calls do not
        model.zero_grad()
        seconds, wall, _ = timed(lambda: zo.nn.backward(model, loss_fn, x), device)
        error = relative_error(torch.cat([p.grad.flatten() for p in model.parameters()]), expected)
        found = {"gradient": "dense", "seconds": seconds, "wall": wall, "error": error}
        plan = zo.nn.plan(model, loss_fn, x)
        plan.backward()
        flop = plan.totals["plain"].flops / (2 * DENSE)
        found["queries"] = plan.cost.queries
        return found if half else {**found, "gflop": 3 * flop / 1e9, "rate": peak(device)}
    return _coordinates(model, x, loss_fn, sample, method == "zograd reuse", expected)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Of all coordinates together."""
    return float((found.to(expected) - expected).norm() / expected.norm())


def _coordinates(
    model: nn.Module, x: Tensor, loss_fn: Callable[[Tensor], Tensor], sample: int, reuse: bool, expected: Tensor
) -> Row:
    """Forward differences: one row a coordinate, a sample of each parameter's timed and multiplied."""
    plain = ModuleLoss(model, loss_fn, x, list(model.parameters()))
    box = TracedLoss(plain, relative=True) if reuse else plain
    base = 0.0 if reuse else float(plain.loss().detach())
    generator = torch.Generator().manual_seed(0)
    total = together = 0.0
    slopes, places, start = [], [], 0
    for parameter in plain.parameters if reuse else plain.parameters[:1]:
        size = parameter.numel() if reuse else DENSE
        index = start + drawn(size, sample, generator)
        probes = zo.Probes(plain.center, zo.Coordinates(index, torch.full((len(index),), STEP)))
        seconds, wall, values = timed(lambda probes=probes: box.probe(probes), x.device.type)
        total += seconds / len(index) * size
        together += wall / len(index) * size
        slopes.append((values - base) / STEP)
        places.append(index)
        start += size
    error = relative_error(torch.cat(slopes), expected[torch.cat(places).to(expected.device)])
    return {"gradient": extent(sample), "seconds": total, "wall": together, "queries": DENSE, "error": error}


def drawn(size: int, sample: int, generator: torch.Generator) -> Tensor:
    """So many numbers below ``size``, or all of them for 0."""
    return torch.randint(size, (sample,), generator=generator) if sample else torch.arange(size)


def extent(sample: int) -> str:
    """How a row came about."""
    return "dense, extrapolated" if sample else "dense"


def reference(row: Row, sample: int, folder: Path) -> Row:
    """The released code on a sample of each block's coordinates."""
    sys.path.insert(0, str(folder))
    from algorithm.zoo.tools import weighted_allocate  # noqa: F401  (the package imports as a whole or not at all)
    from models.distributed_model import DistributedCGEModel
    from models.resnet_s import param_name_to_module_id_rn20
    from models.resnet_s import resnet20 as theirs

    torch.manual_seed(0)
    reuse, device = row["method"].endswith("block reuse"), row["device"]
    worker = DistributedCGEModel(device, theirs, F.cross_entropy, param_name_to_module_id_rn20, None, False, reuse)
    worker.network.train(row["mode"] == "train")
    batch = int(row["batch"])
    x, target = Here(torch.randn(batch, 3, 32, 32).to(device)), Here(torch.randint(10, (batch,)).to(device))
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
    began = timed(lambda: worker.calculate_grads(x, target, 5e-3), device)  # the features alone, once a gradient
    for places in blocks.values() if reuse else [list(range(len(names)))]:
        sizes = [(place, parameters[names[place]].numel()) for place in places]
        rows = torch.tensor([[place, entry] for place, size in sizes for entry in range(size)])
        size = len(rows)
        worker.instruction = rows[drawn(size, sample, generator)]
        seconds, wall, _ = timed(lambda: worker.calculate_grads(x, target, 5e-3), device)
        total += max(0.0, seconds - began[0]) / len(worker.instruction) * size
        together += max(0.0, wall - began[1]) / len(worker.instruction) * size
    return {
        "gradient": extent(sample), "seconds": total + began[0], "wall": together + began[1], "queries": DENSE,
    }  # fmt: skip


def work(row: Row, sample: int, folder: Path | None) -> Row:
    """Fill one row."""
    torch.set_num_threads(int(row["threads"]))
    theirs = row["method"].startswith("DeepZero")
    found = reference(row, sample, folder) if theirs and folder is not None else ours(row, sample)
    version = "DeepZero 2024" if theirs else f"{package('zograd')}, {package('torch')}"
    where = f"{torch.cuda.get_device_name()}, {machine()}" if row["device"] == "cuda" else machine()
    filled = {"error": "", "gflop": "", "rate": "", **row, **found, "version": version, "machine": where}
    for name in ("seconds", "wall", "gflop", "rate", "error"):
        filled[name] = f"{filled[name]:.4g}" if filled[name] != "" else ""
    print({k: filled[k] for k in ("method", "mode", "batch", "seconds", "wall", "error")}, flush=True)
    return filled


def page(results: Results) -> str:
    """The tables of the documentation: the least of the repeats."""
    lines = [
        "<!-- made by benchmarks/network_gradient.py -->", "",
        "Dense gradient of ResNet-20 (269,722 parameters), 32-bit floats where no others are named: processor seconds"
        " on one thread, or a GPU's seconds, the least of the repeats.",
        "Rows marked * are a timed sample of the coordinates of every layer, multiplied.", "",
    ]  # fmt: skip
    tables = sorted({(row["device"], -int(row["batch"]), row["mode"] != "train") for row in results.rows})
    for device, batch, evaluation in tables:
        some: dict[str, Row] = {}
        for row in results.rows:
            if (row["device"], -int(row["batch"]), row["mode"] != "train") == (device, batch, evaluation):
                some[row["method"]] = min(some.get(row["method"], row), row, key=lambda row: float(row["seconds"]))
        if "forward pass" in some:
            where = " on a GPU" if device == "cuda" else ""
            mode = "evaluation" if evaluation else "training"
            lines += [f"### BatchNorm in {mode} mode, batch of {-batch}{where}", "", _table(some)]
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


def _table(some: dict[str, Row]) -> str:
    """One setting's methods."""
    unit = float(some["forward pass"]["seconds"])
    theirs = some.get("DeepZero, block reuse")
    cells = []
    for method in (method for method in (*METHODS, *HALVES) if method in some):
        seconds = float(some[method]["seconds"])
        star = "*" if "extrapolated" in some[method]["gradient"] else ""
        faster = f"{float(theirs['seconds']) / seconds:,.1f}" if theirs and "forward pass" not in method else ""
        cells.append([method + star, f"{seconds:,.3g}", f"{seconds / unit:,.3g}", faster, some[method]["error"]])
    return table(["method", "seconds", "forward passes", "times as fast as the reference", "relative error"], cells)


def peak(device: str) -> float:
    """GFLOP/s of a large matrix product, the best of five."""
    size = 8192 if device == "cuda" else 1024
    a = torch.randn(size, size, device=device)
    return max(2 * size**3 / timed(lambda: a @ a, device)[0] / 1e9 for _ in range(5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--reference", "--code", type=Path, help="a checkout of DeepZero; without it the reference is left out"
    )
    parser.add_argument("--device", choices=tuple(BATCHES), default="cpu", help="cuda also takes 16 bits")
    parser.add_argument("--half", action="store_true", help="take 16 bits on a processor, too")
    parser.add_argument("--batch", type=int, nargs="+", help="64; 512 and 64 on a GPU")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--sample", type=int, help="coordinates timed in each layer or block: 6, on a GPU 256; 0 takes all of them"
    )
    parser.add_argument("--results", type=Path, default=RESULTS / "network_gradient.csv")
    parser.add_argument("--page", type=Path, default=GENERATED / "network_gradient.md")
    given = parser.parse_args()
    results = Results(given.results, FIELDS, KEY)
    methods = [m for m in METHODS if given.reference or not m.startswith("DeepZero")]
    methods += HALVES if given.half or given.device == "cuda" else ()
    known = {results.name(row) for row in results.rows}
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("this torch sees no GPU: nothing is measured. Leave --device out, or install torch for CUDA.")
    for repeat, batch, mode, method in itertools.product(
        range(given.repeats), given.batch or BATCHES[given.device], ("train", "eval"), methods
    ):
        row = {
            "device": given.device, "method": method, "mode": mode, "batch": batch, "threads": given.threads,
            "repeat": repeat,
        }  # fmt: skip
        if results.name(row) not in known:
            results.append(work(row, SAMPLES[given.device] if given.sample is None else given.sample, given.reference))
    results.rewrite(list(results.rows))
    write(given.page, page(results))


if __name__ == "__main__":
    main()
