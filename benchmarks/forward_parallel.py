"""The coordinate-wise gradient of ResNet-20 by worker processes: time, bytes sent, and how well costs are predicted.

A tenth of the weights is active, as in training that is sparse by 0.9; the gradient of some of them, drawn at random,
is found for a few batches one after the other, with a step between. Wall time includes what other programs do on the
machine. Processor time, of this process and its workers, does not, or only what they do to the caches.

    OMP_NUM_THREADS=1 python benchmarks/forward_parallel.py
"""

import hashlib
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from _machine import machine
from _runner import GENERATED, RESULTS, Results, Row, table, write
from network_gradient import resnet20
from torch import Tensor

import zograd as zo
from zograd.blackbox import ModuleLoss, TracedLoss
from zograd.evaluate._ranks import assigned

KEY = ["workers", "batch", "coordinates", "step"]
FIELDS = [*KEY, "seconds", "processor", "bytes", "gradient", "version", "machine"]
SHARE_KEY = ["batch", "coordinates", "share"]
SHARE_FIELDS = [*SHARE_KEY, "rows", "predicted", "processor", "version", "machine"]
BATCH, ACTIVE, COORDINATES, STEPS = 32, 0.1, 400, 3
WAYS = (0, 1, 2)
"""Workers; 0 is this process by itself."""


def batches(count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Noise: what the images show does not change the time."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        yield torch.randn(BATCH, 3, 32, 32, generator=generator), torch.randint(10, (BATCH,), generator=generator)


def problem() -> tuple[torch.nn.Module, Tensor]:
    """The network, and the coordinates that are found."""
    torch.manual_seed(0)
    model = resnet20()
    x, _ = next(batches(1))
    with torch.no_grad():
        model(x)
    generator = torch.Generator().manual_seed(0)
    size = sum(p.numel() for p in model.parameters())
    active = torch.randperm(size, generator=generator)[: int(ACTIVE * size)]
    return model, active[:COORDINATES].sort().values


def processor() -> float:
    """Processor seconds of this process and all its workers so far."""
    spent = time.process_time()
    for child in psutil.Process().children(recursive=True):
        times = child.cpu_times()
        spent += times.user + times.system
    return spent


def trained(workers: int) -> list[Row]:
    """Some steps; a row for each, and step 0 for starting the workers and the first step of all."""
    torch.set_num_threads(1)
    model, active = problem()
    estimator = zo.CoordinateGradient(active=active)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    rows: list[Row] = []
    pool = zo.Pool(workers) if workers else None
    try:
        for step, (x, y) in enumerate(batches(STEPS + 1)):
            optimizer.zero_grad()
            sent, spent, began = pool.sent if pool else 0, processor(), time.perf_counter()
            zo.backward(model, Loss(y), x, estimator=estimator, evaluator=pool)
            seconds, spent = time.perf_counter() - began, processor() - spent
            found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
            bits = hashlib.blake2b(found.numpy().tobytes(), digest_size=8).hexdigest()
            row = {"workers": workers, "batch": BATCH, "coordinates": COORDINATES, "step": step, "gradient": bits}
            row |= {"seconds": f"{seconds:.3f}", "processor": f"{spent:.3f}"}
            rows.append(row | {"bytes": (pool.sent if pool else 0) - sent})
            optimizer.step()
    finally:
        if pool is not None:
            pool.close()
    return [row | {"version": zo.__version__, "machine": machine()} for row in rows]


class Loss:
    """Cross-entropy with its targets."""

    def __init__(self, targets: Tensor) -> None:
        self.targets = targets

    def __call__(self, output: Tensor) -> Tensor:
        """The loss."""
        return F.cross_entropy(output, self.targets)


def divided() -> list[Row]:
    """What each share of one gradient was predicted to cost, and what it cost, in this process."""
    torch.set_num_threads(1)
    model, active = problem()
    x, y = next(batches(1))
    rows: list[Row] = []
    with torch.no_grad():
        box = TracedLoss(ModuleLoss(model, Loss(y), x, list(model.parameters())), relative=True)
        probes, _ = box.arranged(zo.CoordinateGradient(active=active).propose(box.center, torch.Generator()))
        box.probe(probes[:: max(1, len(probes) // 20)])  # what is done once is done before
        for number, share in enumerate(box.shares(probes)):
            began = time.process_time()
            box.probe(probes[share.rows.start : share.rows.stop])
            spent = time.process_time() - began
            row = {"batch": BATCH, "coordinates": COORDINATES, "share": number, "rows": len(share.rows)}
            rows.append(row | {"predicted": f"{share.cost:.0f}", "processor": f"{spent:.5f}"})
    return [row | {"version": zo.__version__, "machine": machine()} for row in rows]


def report(results: Results, shares: Results) -> None:
    """The tables for the documentation."""
    found: dict[int, dict[str, Any]] = {}
    for workers in WAYS:
        rows = {int(row["step"]): row for row in results.rows if int(row["workers"]) == workers}
        later = [rows[step] for step in range(1, STEPS + 1)]
        found[workers] = {name: median(float(row[name]) for row in later) for name in ("seconds", "processor", "bytes")}
        found[workers]["first"] = float(rows[0]["bytes"])
        found[workers]["bits"] = [rows[step]["gradient"] for step in range(STEPS + 1)]
    lines = []
    for workers, here in found.items():
        wall = found[1]["seconds"] / (workers * here["seconds"]) if workers else ""
        lines.append(
            ["this process" if not workers else f"{workers} in a pool", f"{here['seconds']:.2f}",
             f"{here['processor']:.2f}", f"{wall:.2f}" if workers else "",
             f"{found[0]['processor'] / here['processor']:.2f}" if workers else "",
             f"{here['first'] / 1e3:.0f}" if workers else "", f"{here['bytes'] / 1e3:.0f}" if workers else "",
             "yes" if here["bits"] == found[0]["bits"] else "NO"]
        )  # fmt: skip
    head = ["workers", "seconds", "processor seconds", "efficiency", "processor time here / there",
            "first step, kB sent", "later steps, kB sent", "same bits"]  # fmt: skip
    text = table(head, lines)
    predicted = np.array([float(row["predicted"]) for row in shares.rows])
    real = np.array([float(row["processor"]) for row in shares.rows])
    ratio = (real / real.sum()) / (predicted / predicted.sum())
    low, middle, high = np.quantile(ratio, [0.05, 0.5, 0.95])
    text += (
        f"\nReal over predicted cost of the {len(real)} shares, 5 %, 50 %, 95 % of them: "
        f"{low:.2f}, {middle:.2f}, {high:.2f}.\n\n"
    )
    rows = np.array([float(row["rows"]) for row in shares.rows])
    middles = rows.cumsum() - rows / 2
    lines = []
    for workers in (2, 4, 8, 16):
        runs = (middles * workers // rows.sum()).astype(int)  # the same number of rows for each, one after the other
        ways = [assigned(predicted.tolist(), workers), assigned(rows.tolist(), workers)]
        ways.append([np.flatnonzero(runs == worker).tolist() for worker in range(workers)])
        loads = [[real[mine].sum() for mine in way] for way in ways]
        lines.append([workers, *(f"{np.mean(load) / max(load):.2f}" for load in loads)])
    head = ["workers", "shares by predicted cost", "shares by number of rows", "as many rows for each, in order"]
    write(GENERATED / "forward_parallel.md", text + table(head, lines))


def main() -> None:
    """Measure what is missing and write the tables."""
    results = Results(RESULTS / "forward_parallel.csv", FIELDS, KEY)
    shares = Results(RESULTS / "forward_parallel_shares.csv", SHARE_FIELDS, SHARE_KEY)
    for workers in WAYS:
        if not any(int(row["workers"]) == workers for row in results.rows):
            results.rewrite([*results.rows, *trained(workers)])
            print(f"{workers} workers", flush=True)
    if not shares.rows:
        shares.rewrite(divided())
    report(results, shares)


if __name__ == "__main__":
    main()
