"""Measuring slopes: along coordinates, one by one or many at once where their footprints allow, or random directions."""

from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from zograd._parameters import Parameters
from zograd._typing import Points, Vector
from zograd.strategies._footprints import Grid, colours
from zograd.strategies._slopes import Amounts, Outcomes, Slopes, sparse_slopes

LARGEST_MATRIX = 2**25
"""Slopes kept as a matrix, at most: 128 MiB in float32."""
SWEEPS = 8
"""Coordinates are measured where the budget pays for so many rounds; else random directions."""
FEW = 16
"""So many coordinates are always measured one by one."""
SPARSE = 0.25
"""Slopes are kept as entries where at most this share of them is not zero."""
LEAK = 0.2
"""The share of the change that may come from outside the footprints before all are measured one by one again."""
NEGLIGIBLE = 1e-4


@final
class Measurement:
    """How the slopes are measured, and what is known of them.

    Args:
        parameters: What the entries mean.
        budget: Evaluations in all.
    """

    def __init__(self, parameters: Parameters, budget: int) -> None:
        self.parameters, self.budget = parameters, budget
        self.free = (~parameters.fixed.cpu()).nonzero()[:, 0]
        self.outputs, self.noisy, self.grid = 0, False, None
        self.slopes = Slopes.zeros(0, 0)
        self.directions = torch.zeros(0, 0, dtype=torch.float64)
        self.cost = 0
        self.apart = False
        self._footprint: tuple[Tensor, Tensor, int] | None = None
        self._by_pixel = False
        self.known = False
        self.random = False
        self._units: Tensor = torch.zeros(0, dtype=torch.long)
        self._groups: Tensor = torch.zeros(0, dtype=torch.long)
        self._steps: Vector = torch.zeros(0)
        self._last: tuple[Tensor, Tensor] | None = None

    def begin(self, outputs: int, noisy: bool, grid: Grid | None) -> None:
        self.outputs, self.noisy, self.grid = outputs, noisy, grid
        d = len(self.free)
        fits = d * outputs <= LARGEST_MATRIX
        self.random = not (fits and d <= max(FEW, self.budget // SWEEPS))
        if self.random:
            rows = min(512, max(4, self.budget // 32), 2**24 // max(d, outputs), d)
            self.cost = max(1, rows)
        else:
            self.cost = d
            self.slopes = Slopes.zeros(d, outputs)

    def part(self) -> bool:
        """Measure one by one from now on, if it was not so; else together again, where footprints allow it."""
        shared = self._footprint is not None
        self.apart = shared
        return shared

    # --- where to look

    def offsets(self, center: Vector, reach: float, room: int, generator: torch.Generator) -> Points:
        """The probes of a measurement, at most ``room`` rows."""
        d = len(self.free)
        if self.random:
            rows = min(self.cost, room)
            self.directions = torch.randn(rows, d, dtype=center.dtype, generator=generator)
            self._steps = torch.full((rows,), reach if reach < 0.01 else 0.3 * reach, dtype=center.dtype)
            spread = center.new_zeros(rows, len(center))
            spread[:, self.free] = self.directions * self._steps[:, None]
            return spread
        low, high = (side.cpu().to(center)[self.free] for side in (self.parameters.lower, self.parameters.upper))
        here = center[self.free]
        length = self.parameters.granularity.cpu().to(center)[self.free].clamp(min=reach)
        signs = torch.randint(2, (d,), generator=generator).to(center) * 2 - 1
        outside = (here + signs * length > high) | (here + signs * length < low)
        signs = torch.where(outside, torch.where(here - low > high - here, -1.0, 1.0).to(center), signs)
        self._steps = torch.minimum(torch.maximum(here + signs * length, low), high) - here
        groups, count = self._grouped(generator)
        if count > room:
            chosen = torch.randperm(count, generator=generator)[:room]
            place = torch.full((count + 1,), -1)
            place[chosen] = torch.arange(room)
            groups, count = place[groups], room
        self._groups = groups
        self._count = count
        rows = center.new_zeros(count, len(center))
        measured = groups >= 0
        rows[groups[measured], self.free[measured]] = self._steps[measured]
        return rows

    def _grouped(self, generator: torch.Generator) -> tuple[Tensor, int]:
        """The group of each coordinate (-1 for none), and how many groups there are."""
        d, slopes = len(self.free), self.slopes
        self._footprint, self._by_pixel = None, False
        if self.apart:
            self.slopes = slopes = slopes.dense()
        if slopes.direction is None or slopes.output is None:
            self.cost = d
            return torch.arange(d), d
        item, cell, cells = slopes.direction, slopes.output, self.outputs
        if self.grid is not None and d * self.grid.height * self.grid.width <= LARGEST_MATRIX:
            self._by_pixel = True
            cells = self.grid.height * self.grid.width
            marked = torch.zeros(d, cells, dtype=torch.bool)
            marked[item, self.grid.pixel(cell)] = True
            item, cell = self.grid.widened(marked).nonzero(as_tuple=True)
        group = colours(d, item, cell, cells)
        count = int(group.max()) + 1 if len(group) else 0
        idle = (group < 0).nonzero()[:, 0]  # they touched nothing so far: one in a group, which owns the rest
        idle = idle[torch.randperm(len(idle), generator=generator)]
        host = torch.randperm(max(count, 1), generator=generator)
        some = min(len(idle), max(count, 1))
        group[idle[:some]] = host[:some]
        self.cost = count = max(count, 1)
        self._footprint = (item, cell, cells)
        return group, count

    # --- what came back

    def told(self, outputs: Tensor, residuals: Outcomes) -> None:
        """Take the residuals at the probes, and those at the centre."""
        self.known = True
        change = outputs - residuals
        good = change.isfinite().all(1)
        if self.random:
            matrix = Slopes.zeros(len(change), self.outputs).value
            matrix.copy_(torch.where(good[:, None], change / self._steps[:, None], 0.0))
            self.slopes = Slopes(len(change), self.outputs, matrix)
        elif self._footprint is not None:
            self._told_groups(change, good)
        else:
            matrix = self.slopes.value
            owners = self._groups >= 0
            rows = self._groups[owners]
            picked = owners.nonzero()[:, 0][good[rows]]
            rows = rows[good[rows]]
            matrix[picked] = (change[rows] / self._steps[picked, None]).to(matrix)
            if len(picked) == len(self.free) and len(self.free) >= 64 and not self.noisy and not self.apart:
                self._thin()

    def _thin(self) -> None:
        """Keep entries in place of a matrix, where few are not zero."""
        matrix = self.slopes.value
        there = matrix.abs() > NEGLIGIBLE * matrix.abs().amax(1, keepdim=True)
        if float(there.float().mean()) <= SPARSE:
            direction, output = there.nonzero(as_tuple=True)
            self.slopes = sparse_slopes(*matrix.shape, direction, output, matrix[direction, output])

    def _told_groups(self, change: Tensor, good: Tensor) -> None:
        """Share the change of each group's outputs among its members."""
        owner = self._owners(len(change))
        scale = NEGLIGIBLE * change.abs().nan_to_num(0.0).amax(1, keepdim=True)
        row, output = ((change.abs() > scale) & good[:, None]).nonzero(as_tuple=True)
        cell = self.grid.pixel(output) if self._by_pixel else output
        item, found = owner[row, cell], change[row, output]
        known = item >= 0
        total = float(found.square().sum())
        leak = float(found[~known].square().sum()) / total if total > 0 else 0.0
        item, output = item[known], output[known]
        value = (found[known] / self._steps[item]).float()
        slopes = self.slopes
        stale = self._groups < 0
        stale[~stale] = ~good[self._groups[~stale]]
        old = stale[slopes.direction]
        item = torch.cat([item, slopes.direction[old]])
        output = torch.cat([output, slopes.output[old]])
        value = torch.cat([value, slopes.value[old]])
        order = torch.argsort(item, stable=True)
        self.slopes = sparse_slopes(len(self.free), self.outputs, item[order], output[order], value[order])
        if leak > LEAK:
            self.slopes = self.slopes.dense()

    def _owners(self, groups: int) -> Tensor:
        """The member of each group that each output (or pixel) belongs to, shape (groups, cells); -1 for none."""
        item, cell, cells = self._footprint
        owner = torch.full((groups, cells), -1)
        group = self._groups[item]
        measured = group >= 0
        owner[group[measured], cell[measured]] = item[measured]
        if self._by_pixel:
            owner = self.grid.nearest(owner)
        touching = torch.zeros(len(self.free), dtype=torch.bool)
        touching[item] = True
        idle = ((self._groups >= 0) & ~touching).nonzero()[:, 0]
        host = self._groups[idle]
        owner[host] = torch.where(owner[host] < 0, idle[:, None], owner[host])
        return owner

    # --- between directions and parameters

    def movable(self, center: Vector, gradient: Amounts) -> Amounts:
        """1 for directions that a step may take, 0 for those that lead out of the bounds."""
        if self.random:
            return torch.ones(len(self.directions), dtype=torch.float64)
        here = center[self.free]
        low, high = (side.cpu().to(center)[self.free] for side in (self.parameters.lower, self.parameters.upper))
        stuck = ((here <= low) & (gradient > 0)) | ((here >= high) & (gradient < 0))
        return (~stuck).double()

    def spread(self, steps: Float[Tensor, "n k"]) -> Points:
        """Steps along the directions as steps of the parameters."""
        wide = steps.new_zeros(len(steps), len(self.parameters))
        wide[:, self.free] = steps @ self.directions if self.random else steps
        return wide

    def gathered(self, step: Vector) -> Amounts:
        """A step of the parameters along the directions: by least squares where they are random."""
        if not self.random:
            return step[self.free]
        return torch.linalg.lstsq(self.directions.T, step[self.free][:, None]).solution[:, 0]

    def state_dict(self) -> dict[str, Any]:
        return {
            "outputs": self.outputs,
            "noisy": self.noisy,
            "grid": None if self.grid is None else [self.grid.height, self.grid.width, self.grid.channels, self.grid.channels_first],
            "random": self.random,
            "known": self.known,
            "apart": self.apart,
            "shared": self._footprint is not None,
            "cost": self.cost,
            "slopes": self.slopes.state_dict(),
            "directions": self.directions,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.outputs, self.noisy, self.random, self.cost = (state[n] for n in ("outputs", "noisy", "random", "cost"))
        self.known, self.apart = state["known"], state["apart"]
        self._footprint = (torch.zeros(0), torch.zeros(0), 0) if state["shared"] else None
        self.grid = None if state["grid"] is None else Grid(*state["grid"])
        self.slopes, self.directions = Slopes(**state["slopes"]), state["directions"]
