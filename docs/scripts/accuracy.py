"""What a gradient costs: how good random directions and coordinates are, against the number of evaluations."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from _style import BLUE, GREEN, GREY, ORANGE, RED, label, save

import zograd as zo

DIMENSION = 100
REPEATS = 40
FORMS = [
    ("gaussian", ORANGE, "gaussian"),
    ("rademacher", BLUE, "rademacher (SPSA)"),
    ("orthogonal", GREEN, "orthogonal"),
]


def program(points: torch.Tensor) -> torch.Tensor:
    """A smooth function whose parameters act on each other."""
    return (points.sin() + 0.5 * points.roll(1, 1) ** 2).sum(1) + points.mean(1).cos()


def quality(estimator: zo.GradientEstimator, center: torch.Tensor, truth: torch.Tensor, seed: int) -> list[float]:
    """``||g - truth|| / ||truth||`` of one estimate, and the cosine between the two."""
    probes = estimator.propose(center, torch.Generator().manual_seed(seed))
    found = estimator.gradient(probes, program(probes.points())).gradient
    return [float((found - truth).norm() / truth.norm()), float(found @ truth / found.norm() / truth.norm())]


center = torch.randn(DIMENSION, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
(truth,) = torch.autograd.grad(program(center[None]).sum(), center)
center = center.detach()

figure, both = plt.subplots(1, 2, figsize=(8.4, 4.0))
samples = [1, 2, 4, 8, 16, 32, 64, 100, 200, 400]
for directions, color, name in FORMS:
    rows = []
    for number in samples:
        if directions == "orthogonal" and number > DIMENSION:
            continue
        estimator = zo.RandomGradient(samples=number, directions=directions)
        found = np.array([quality(estimator, center, truth, seed) for seed in range(REPEATS)])
        rows.append((estimator.evaluations(DIMENSION), np.quantile(found, [0.1, 0.5, 0.9], axis=0)))
    cost = [evaluations for evaluations, _ in rows]
    for column, axes in enumerate(both):
        low, middle, high = np.array([spread[:, column] for _, spread in rows]).T
        axes.fill_between(cost, low, high, color=color, alpha=0.13, lw=0)
        axes.plot(cost, middle, "o-", color=color, ms=4, label=name)

error, cosine = both
for estimator, name in [(zo.CoordinateGradient(central=False), "forward"), (zo.CoordinateGradient(), "central")]:
    cost = estimator.evaluations(DIMENSION)
    found = quality(estimator, center, truth, 0)
    error.plot(cost, 0.145, "v", color=RED, ms=8, clip_on=False)
    label(
        error,
        cost * (0.84 if name == "forward" else 1.2),
        0.165,
        f"{found[0]:.0e}",
        RED,
        ha="right" if name == "forward" else "left",
    )
    cosine.plot(cost, found[1], "s", color=RED, ms=8, clip_on=False)
label(cosine, 85, 0.985, "coordinates,\nforward and central", RED, ha="right", va="top")
label(error, 70, 0.25, "coordinates,\nfar below:", RED, ha="right")
error.axhline(1, color=GREY, lw=1, ls=":")
label(error, 2, 0.86, "a guess of zero", GREY, va="top")
error.set(
    yscale="log", ylabel="relative error", ylim=(0.14, 20), yticks=[0.2, 1, 5, 20], yticklabels=["0.2", "1", "5", "20"]
)
error.set_title("Error of the gradient")
error.minorticks_off()
cosine.set(ylabel="cosine with the true gradient", ylim=(0, 1.02))
cosine.set_title("Agreement in direction")
cosine.legend(title="random directions", loc="lower right", alignment="left")
for axes in both:
    axes.set(xscale="log", xlabel=f"evaluations for one gradient of {DIMENSION} parameters", xlim=(1.7, 1000))
save(figure, "accuracy")
