"""Where the true gradient is of no use: a room whose picture is made of edges, and three ways down.

A ray-caster made of torch operations can be differentiated. Its derivative is exact wherever it exists, and blind: a
pixel is either on a block or beside it. Writes true_gradient.png and the table of the explanation page.
"""

from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch
from _style import BLUE, GREEN, GREY, INK, ORANGE, PICTURES
from PIL import Image

import zograd as zo
from zograd.problems import cornell
from zograd.problems._raycaster import Room
from zograd.problems.cornell import LOWER, START, UPPER, WANTED, batch, pictures

torch.set_num_threads(1)
STARTS, EVALUATIONS = 5, 1500
COUNTED = 3
"""Evaluations that a step on the true gradient is counted as: a forward and a backward pass."""
RATES, SPREADS = (0.001, 0.003, 0.01, 0.03), (0.02, 0.05, 0.1)

problem = cornell()
room, wanted = Room(64), pictures(Room(64), batch(WANTED))
low, high, start, goal = (
    torch.cat([torch.tensor(place[name]) for name in START]) for place in (LOWER, UPPER, START, WANTED)
)


def loss(points: torch.Tensor) -> torch.Tensor:
    """The problem's loss, with a graph: points in units of the bounds, shape (n, 9), to (n,)."""
    light, tall, short = (low + points * (high - low)).float().split(3, 1)
    return (room(light, tall, short) - wanted).square().flatten(1).mean(1)


def start_of(seed: int) -> torch.Tensor:
    """The problem's own start, and others around it, in units of the bounds."""
    drawn = torch.randn(9, generator=torch.Generator().manual_seed(seed)) * 0.15 * (seed > 0)
    return ((start - low) / (high - low) + drawn).clamp(0.05, 0.95)


def structure(point: torch.Tensor) -> dict:
    """A point in units of the bounds as the problem takes it."""
    return dict(zip(START, np.split((low + point * (high - low)).double().numpy(), 3), strict=True))


def differentiated(seed: int, rate: float) -> tuple[np.ndarray, np.ndarray, dict]:
    """Adam on the true gradient: evaluations spent, the lowest loss so far, and where it was."""
    point = start_of(seed).requires_grad_()
    optimizer = torch.optim.Adam([point], lr=rate)
    values, best = [], point.detach().clone()
    for _ in range(EVALUATIONS // COUNTED):
        optimizer.zero_grad()
        value = loss(point[None])[0]
        value.backward()
        values.append(value.item())
        if values[-1] == min(values):
            best = point.detach().clone()
        optimizer.step()
        with torch.no_grad():
            point.clamp_(0, 1)
    return COUNTED * np.arange(1, len(values) + 1), np.minimum.accumulate(values), structure(best)


def estimated(seed: int, **settings) -> tuple[np.ndarray, np.ndarray, dict]:
    """`zo.minimize` on the same loss, from values alone."""
    bounds = problem.bounds
    x0 = {name: np.clip(values, *bounds[name]) for name, values in structure(start_of(seed)).items()}
    result = zo.minimize(problem.fun, x0, bounds=bounds, evaluations=EVALUATIONS, progress=False, **settings)
    spent, best = np.array([[step.evaluations, step.best_value] for step in result.history]).T
    return spent, best, result.x


def best_of(way, choices: tuple[float, ...]) -> tuple[float, list]:
    """The setting with the lowest median over the starts, and its runs."""
    runs = {choice: [way(seed, choice) for seed in range(STARTS)] for choice in choices}
    chosen = min(choices, key=lambda choice: np.median([run[1][-1] for run in runs[choice]]))
    return chosen, runs[chosen]


def smoothed(seed: int, spread: float) -> tuple[np.ndarray, np.ndarray, dict]:
    """The same Adam on the gradient of the smoothed loss, 20 evaluations a step."""
    estimator = zo.SmoothedGradient(spread=spread, samples=10)
    return estimated(seed, estimator=estimator, optimizer=partial(torch.optim.Adam, lr=0.02))


rate, true = best_of(differentiated, RATES)
spread, blurred = best_of(smoothed, SPREADS)
untouched = [estimated(seed) for seed in range(STARTS)]
WAYS = [
    (f"Adam, true gradient (rate {rate})", ORANGE, true),
    (f"Adam, smoothed gradient (spread {spread})", BLUE, blurred),
    ("zo.minimize, nothing named", GREEN, untouched),
]
lines = [
    "<!-- made by docs/scripts/true_gradient.py -->",
    "",
    "| method | median | lowest | highest |",
    "|---|---:|---:|---:|",
]
for name, _, runs in WAYS:
    ends = np.array([run[1][-1] for run in runs])
    lines.append(f"| {name} | {np.median(ends):.5f} | {ends.min():.5f} | {ends.max():.5f} |")
(PICTURES.parent / "_generated" / "true_gradient.md").write_text("\n".join(lines) + "\n")
print("\n".join(lines))

figure = plt.figure(figsize=(9, 6.9))
above, below = figure.subfigures(2, 1, height_ratios=[1.75, 1])
left, right = above.subplots(1, 2)

# Along one parameter, with all others where they are wanted.
line = torch.linspace(-0.2, 0.65, 341)
spread_shown, reach = 0.08, np.array([-0.028, 0.028])
points = ((goal - low) / (high - low)).repeat(len(line), 1)
points[:, 6] = (line - low[6]) / (high[6] - low[6])
points.requires_grad_()
values = loss(points)
(slopes,) = torch.autograd.grad(values.sum(), points)
slopes = (slopes[:, 6] / (high[6] - low[6])).numpy()
values = values.detach().numpy()
offsets = torch.linspace(-3, 3, 61) * spread_shown
weights = torch.exp(-0.5 * (offsets / spread_shown) ** 2)
weights /= weights.sum()
left.plot(line.numpy(), 1e3 * values, color=INK, lw=1.4)
for at in range(10, 341, 32):
    here = float(line[at]) + reach
    left.plot(here, 1e3 * (values[at] + slopes[at] * reach), color=ORANGE)
    moved = points.detach()[at].repeat(61, 1)
    moved[:, 6] += offsets / (high[6] - low[6])
    around = loss(moved.clamp(0, 1)).detach()
    slope, level = float(weights @ (around * offsets)) / spread_shown**2, float(weights @ around)
    left.plot(here, 1e3 * (level + slope * reach), color=BLUE)
left.axvline(goal[6], color=GREY, lw=1, ls=":")
left.set(xlabel="where the gold block stands (x)", ylabel="loss, thousandths")
left.set_title("The true slope (orange) is zero on the way;\nthat of the smoothed loss (blue) is not")

for name, color, runs in WAYS:
    for spent, best, _ in runs:
        right.plot(spent, best, color=color, lw=1, alpha=0.45)
    spent, best, _ = runs[0]
    right.plot(spent, best, color=color, label=name)
right.set(yscale="log", xlabel="evaluations", ylabel="lowest loss so far", xlim=(0, EVALUATIONS), ylim=(8e-5, 0.1))
right.legend(loc="lower left", fontsize=8)
right.set_title("Five starts each")

panels = below.subplots(1, 4)
drawings = [
    ("start", problem.draw(problem.x0, 200), INK),
    ("Adam, true gradient", problem.draw(true[0][2], 200), ORANGE),
    ("zo.minimize", problem.draw(untouched[0][2], 200), GREEN),
    ("the picture to match", problem.target(200), INK),
]
for axes, (name, drawing, color) in zip(panels, drawings, strict=True):
    axes.imshow(drawing)
    axes.set_axis_off()
    axes.set_title(name, color=color, fontsize=10, loc="center")
path = PICTURES / "true_gradient.png"
figure.savefig(path, metadata={"Software": None})
with Image.open(path) as sheet:
    full = sheet.convert("RGB")
# Fewer colours, spread over neighbouring pixels so that the shading has no bands.
full.quantize(palette=full.quantize(256), dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)
