"""The memory of training a network of 10^8 parameters from function values, against one forward pass.

Each case runs in a process of its own, whose peak of resident memory the system reports; that of a process that has
imported everything and made the network is taken off, as torch itself is not the network's.

    OMP_NUM_THREADS=1 python benchmarks/seeded_memory.py
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from _machine import machine
from _runner import GENERATED, RESULTS, Results, Row, sweep, table, write
from torch import nn

KEY = ["case", "dtype"]
FIELDS = [*KEY, "parameters", "parameters_mb", "peak_mb", "share", "seconds", "machine"]
CASES = {
    "forward": "one forward pass, no graph",
    "seeded": "two steps of SeededDescent",
    "sgd": "two steps of backpropagation and SGD",
}
LAYERS, WIDTH, HEADS, WORDS, CONTEXT, BATCH = 10, 912, 16, 2048, 32, 4


class Block(nn.Module):
    """Attention and a perceptron, each added to what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.perceptron = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (batch, context, width) to the same."""
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.perceptron(self.norms[1](x))


class Language(nn.Module):
    """A transformer over words, 10^8 parameters, whose last layer is its first."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """The next word's scores."""
        return nn.functional.linear(self.blocks(self.words(words)), self.words.weight)


def peak() -> float:
    """The peak of resident memory of this process, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def one(case: str, dtype: str) -> dict[str, Any]:
    """Run one case here."""
    import time

    import zograd as zo

    torch.set_num_threads(1)
    with torch.device("meta"):
        model = Language().to(getattr(torch, dtype))
    model = model.to_empty(device="cpu")
    tiny = [nn.Parameter(torch.zeros(1))]  # the first optimiser of a process brings in much of torch
    torch.optim.SGD(tiny, lr=1.0).step()
    zo.nn.SeededDescent(tiny).step(lambda: nn.functional.relu(tiny[0]).sum())
    base = peak()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.02) if p.ndim > 1 else p.fill_(0.0)
    words = torch.randint(WORDS, (BATCH, CONTEXT + 1), generator=torch.Generator().manual_seed(0))

    def loss() -> torch.Tensor:
        return nn.functional.cross_entropy(model(words[:, :-1]).flatten(0, 1).float(), words[:, 1:].flatten())

    began = time.perf_counter()
    if case == "forward":
        with torch.no_grad():
            loss()
    elif case == "seeded":
        optimizer = zo.nn.SeededDescent(model.parameters(), lr=1e-7)
        for _ in range(2):
            optimizer.step(loss)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        for _ in range(2):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
    held = sum(p.nbytes for p in model.parameters()) / 1e6
    count = sum(p.numel() for p in model.parameters())
    seconds = time.perf_counter() - began
    return {"parameters": count, "parameters_mb": held, "peak_mb": peak() - base, "seconds": seconds}


def work(task: Row) -> Row:
    """Run one case in a process of its own."""
    command = [sys.executable, str(Path(__file__)), "--one", task["case"], task["dtype"]]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {**task, **{k: round(v, 1) for k, v in found.items()}, "share": "", "machine": machine()}


def report(results: Results) -> None:
    """The table for the documentation."""
    peaks = {(row["case"], row["dtype"]): float(row["peak_mb"]) for row in results.rows}
    rows = []
    for row in results.rows:
        row["share"] = f"{100 * (peaks[row['case'], row['dtype']] / peaks['forward', row['dtype']] - 1):.1f}"
        rows.append(
            [CASES[row["case"]], row["dtype"], f"{float(row['parameters_mb']):.0f}", f"{float(row['peak_mb']):.0f}",
             row["share"], f"{float(row['seconds']):.1f}"]
        )  # fmt: skip
    results.rewrite([dict(row) for row in results.rows])
    head = ["what", "precision", "parameters, MB", "peak with parameters, MB", "more than a forward pass, %", "seconds"]
    write(GENERATED / "seeded_memory.md", table(head, rows))


def main() -> None:
    """Measure what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("CASE", "DTYPE"))
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(*given.one)))
        return
    results = Results(RESULTS / "seeded_memory.csv", FIELDS, KEY)
    tasks = [{"case": case, "dtype": dtype} for dtype in ("float32", "bfloat16") for case in CASES]
    sweep(tasks, work, results)
    report(results)


if __name__ == "__main__":
    main()
