"""Coordinate-wise gradients of networks on noisy and quantised hardware: the default step beside measured ones.

A network of three layers (8, 16, 16, 4) whose linear layers are computed by a device that rounds weights and biases,
adds noise, or computes in bfloat16, and of which no derivative is known. The cosine is that with the gradient of the
same network on a perfect device, by autograd.

    OMP_NUM_THREADS=1 python benchmarks/layer_steps.py
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from _machine import machine, package
from _runner import GENERATED, RESULTS, Results, Row, sweep, table, write
from torch import Tensor, nn

import zograd as zo

KEY = ["device", "seed"]
FIELDS = [*KEY, "default", "measured", "shortest", "longest", "evaluations", "gradient", "version", "machine"]
DEVICES: dict[str, tuple[int, float, torch.dtype]] = {
    "perfect": (0, 0.0, torch.float32),
    "32 levels to a unit": (32, 0.0, torch.float32),
    "16 levels to a unit": (16, 0.0, torch.float32),
    "8 levels to a unit": (8, 0.0, torch.float32),
    "noise 0.001": (0, 1e-3, torch.float32),
    "noise 0.01": (0, 1e-2, torch.float32),
    "noise 0.03": (0, 3e-2, torch.float32),
    "16 levels, noise 0.01": (16, 1e-2, torch.float32),
    "bfloat16": (0, 0.0, torch.bfloat16),
}


class Device(nn.Module):
    """A linear layer as a device computes it.

    Args:
        linear: The weights and biases that it is told.
        levels: How finely it sets them, to a unit; 0 for exactly.
        noise: The standard deviation of what it adds to its outputs.
        dtype: What it computes in.
    """

    def __init__(self, linear: nn.Linear, levels: int, noise: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.linear, self.levels, self.noise, self.dtype = linear, levels, noise, dtype
        self.drawn = np.random.default_rng(0)

    def forward(self, x: Tensor) -> Tensor:
        """The outputs, without a graph, by numbers that torch does not draw."""
        told = (p.detach() for p in self.linear.parameters())
        weight, bias = ((p * self.levels).round() / self.levels if self.levels else p for p in told)
        y = F.linear(*(value.to(self.dtype) for value in (x.detach(), weight, bias))).float().numpy()
        return torch.from_numpy(y + self.noise * self.drawn.standard_normal(y.shape).astype(np.float32))


def work(row: Row) -> Row:
    """One network: both gradients, and what they cost."""
    torch.manual_seed(int(row["seed"]))
    ideal = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))
    x, classes = torch.randn(64, 8), torch.randint(4, (64,))
    told = torch.autograd.grad(F.cross_entropy(ideal(x), classes), list(ideal.parameters()))
    expected = torch.cat([g.flatten() for g in told])
    settings = DEVICES[row["device"]]
    model = nn.Sequential(*(Device(part, *settings) if isinstance(part, nn.Linear) else part for part in ideal))

    def loss_fn(output: Tensor) -> Tensor:
        return F.cross_entropy(output, classes)

    steps = zo.nn.layer_steps(model, loss_fn, x)
    cosines = []
    for step in (None, steps.step):
        model.zero_grad()
        zo.backward(model, loss_fn, x, estimator=zo.CoordinateGradient(step=step))
        found = torch.cat([p.grad.flatten() for p in model.parameters()])
        cosines.append(f"{float(F.cosine_similarity(found, expected, 0)):.3f}")
    filled = {
        **row, "default": cosines[0], "measured": cosines[1], "shortest": f"{float(steps.step.min()):.2g}",
        "longest": f"{float(steps.step.max()):.2g}", "evaluations": steps.evaluations, "gradient": 2 * len(expected),
        "version": f"{package('zograd')}, {package('torch')}", "machine": machine(),
    }  # fmt: skip
    print(filled, flush=True)
    return filled


def page(results: Results) -> str:
    """The table of the documentation: the median over the seeds."""
    lines = ["<!-- made by benchmarks/layer_steps.py -->", ""]
    rows = []
    for device in DEVICES:
        some = [row for row in results.rows if row["device"] == device]
        if some:
            middle = [np.median([float(row[name]) for row in some]) for name in FIELDS[2:8]]
            cells = [*(f"{value:.3f}" for value in middle[:2]), f"{middle[2]:.2g} to {middle[3]:.2g}"]
            rows.append([device, *cells, f"{middle[4]:.0f}", f"{middle[5]:.0f}"])
    seeds = len({row["seed"] for row in results.rows})
    header = [
        "the device", "cosine, default step", "cosine, measured steps", "measured steps", "evaluations for them",
        "evaluations of a gradient",
    ]  # fmt: skip
    lines += [table(header, rows), f"Medians of {seeds} networks.", ""]
    return "\n".join([*lines, *sorted({f"- {row['machine']}; {row['version']}" for row in results.rows})])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--devices", nargs="*", default=list(DEVICES))
    parser.add_argument("--results", type=Path, default=RESULTS / "layer_steps.csv")
    parser.add_argument("--page", type=Path, default=GENERATED / "layer_steps.md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(given.results, FIELDS, KEY)
    sweep([{"device": device, "seed": seed} for device in given.devices for seed in range(given.seeds)], work, results)
    results.rewrite(list(results.rows))
    write(given.page, page(results))


if __name__ == "__main__":
    main()
