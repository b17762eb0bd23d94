"""The U-shaped error of a finite difference: rounding and noise on the left, bias on the right."""

import matplotlib.pyplot as plt
import torch
from _style import BLUE, INK, ORANGE, RED, label, save

import zograd as zo

DIMENSION = 20
STEPS = torch.logspace(-12, 0.5, 76, dtype=torch.float64)


def program(points: torch.Tensor) -> torch.Tensor:
    """A smooth function of each row."""
    return (points.sin() + points.roll(1, 1).exp()).sum(1)


def errors(dtype: torch.dtype, central: bool, noise: float = 0.0) -> list[float]:
    """The relative error of the coordinate gradient at every step, the median of five noisy programs."""
    center = torch.linspace(-1, 1, DIMENSION, dtype=torch.float64)
    truth = torch.autograd.functional.jacobian(lambda x: program(x[None])[0], center)
    found = []
    for step in STEPS.tolist():
        estimator = zo.CoordinateGradient(step=step, central=central)
        try:
            probes = estimator.propose(center.to(dtype), torch.Generator())
        except zo.ArgumentError:  # the step is lost in rounding
            found.append(float("nan"))
            continue
        several = []
        for seed in range(5 if noise else 1):
            drawn = torch.randn(len(probes), dtype=dtype, generator=torch.Generator().manual_seed(seed))
            values = program(probes.points()) + noise * drawn
            gradient = estimator.gradient(probes, values).gradient.double()
            several.append(float((gradient - truth).norm() / truth.norm()))
        found.append(sorted(several)[len(several) // 2])
    return found


figure, axes = plt.subplots(figsize=(7.4, 4.6))
axes.plot(STEPS, errors(torch.float64, central=False), color=BLUE, ls=(0, (4, 1.6)), lw=1.6)
axes.plot(STEPS, errors(torch.float64, central=True), color=BLUE)
axes.plot(STEPS, errors(torch.float32, central=True), color=ORANGE)
axes.plot(STEPS, errors(torch.float64, central=True, noise=1e-3), color=RED)

label(axes, 1.2e-8, 3e-10, "float64, central", BLUE, ha="right")
label(axes, 9e-7, 4e-8, "float64, forward", BLUE)
label(axes, 6e-6, 6e-2, "float32", ORANGE)
label(axes, 1.4e-3, 3.5, "noise of 0.001\nin every value", RED)
axes.annotate("too small:\nrounding and noise", (0.02, 0.97), xycoords="axes fraction", va="top", color=INK)
axes.annotate("too large:\nbias", (0.98, 0.97), xycoords="axes fraction", va="top", ha="right", color=INK)
label(axes, 1.2e-4, 1.2e-10, "bias grows with the\nsquare of the step", BLUE)
axes.set(xscale="log", yscale="log", xlabel="step", ylabel="relative error of the gradient", ylim=(1e-12, 1e3))
axes.set_title("The best step lies in the valley, and noise moves the valley")
save(figure, "step_size")
