"""A landscape of plateaus, what blurring makes of it, and the gradients that descend it."""

import matplotlib.pyplot as plt
import torch
from _style import BLUE, GREEN, GREY, INK, ORANGE, label, save

import zograd as zo

SPREADS = [(0.06, ORANGE), (0.3, BLUE), (0.8, GREEN)]


def staircase(x: torch.Tensor) -> torch.Tensor:
    """A bowl with a dent in its side, seen through a coarse pixel scale."""
    smooth = 0.2 * (x - 0.9) ** 2 - 0.9 * torch.exp(-((x + 1.3) ** 2) / 0.06)
    return (smooth * 4).round() / 4


def blurred(x: torch.Tensor, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The exact Gaussian blur of the staircase and its derivative, by quadrature."""
    offsets = torch.linspace(-6, 6, 6001, dtype=torch.float64) * spread
    weights = torch.exp(-0.5 * (offsets / spread) ** 2)
    weights /= weights.sum()
    values = staircase(x[:, None] + offsets)
    return values @ weights, values @ (weights * offsets) / spread**2


def estimated(centers: torch.Tensor, spread: float) -> torch.Tensor:
    """What 32 evaluations tell of the blurred gradient at each centre."""
    estimator = zo.SmoothedGradient(spread=spread, samples=16, importance="derivative")
    generator = torch.Generator().manual_seed(1)
    found = []
    for center in centers:
        probes = estimator.propose(center[None], generator)
        found.append(estimator.gradient(probes, staircase(probes.points()[:, 0])).gradient)
    return torch.cat(found)


x = torch.linspace(-2.6, 2.8, 1601, dtype=torch.float64)
centers = torch.linspace(-2.5, 2.7, 27, dtype=torch.float64)
figure, (top, bottom) = plt.subplots(2, 1, figsize=(7.4, 6.2), sharex=True, height_ratios=[1.15, 1])

top.plot(x, staircase(x), color=INK, lw=1.6)
label(top, -0.62, 0.98, "the program:\nflat steps, and a dent", INK)
for spread, color in SPREADS:
    values, slope = blurred(x, spread)
    top.plot(x, values, color=color, label=f"blurred, spread {spread}")
    bottom.plot(x, slope, color=color)
    if spread != SPREADS[0][0]:
        bottom.plot(centers, estimated(centers, spread), "o", color=color, ms=4.5, mec="white", mew=0.8)
top.set_title("A wider blur removes first the steps, then the dent")
top.set_ylabel("value")
top.set_ylim(-0.15, 2.95)
top.legend(loc="upper right")

bottom.axhline(0, color=INK, lw=1.6)
label(bottom, -0.85, 0.3, "the program's own slope: 0", INK)
bottom.set_title("Slope of the blurred program; dots: estimated, 32 evaluations each")
bottom.set_ylabel("slope")
bottom.set_ylim(-3.4, 3.4)
bottom.set_xlabel("parameter")
for axes in (top, bottom):
    axes.axvline(0.9, color=GREY, lw=1, ls=":")
label(bottom, 0.95, -2.7, "best", GREY)
save(figure, "smoothing")
