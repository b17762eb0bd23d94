"""Measuring slopes: along coordinates, many at once where their footprints allow, or along random directions."""

from typing import Any, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor

from zograd._colours import colours
from zograd._parameters import Parameters
from zograd._typing import Points, Vector
from zograd.strategies._addresses import addresses, owners
from zograd.strategies._footprints import Grid
from zograd.strategies._scouts import FARTHEST, Scouts
from zograd.strategies._slopes import Amounts, Outcomes, Slopes

LARGEST_MATRIX = 2**25
"""Slopes kept as a matrix, at most: 128 MiB in float32."""
SWEEPS = 3
"""Coordinates are measured where the budget pays for so many rounds; else random directions."""
FEW = 16
"""So many coordinates are always measured one by one."""
MANY = 64
"""From so many on it is worth to look for footprints."""
DIRECTIONS = 512
"""Random directions of one measurement, at most."""
SPARSE = 0.25
"""Slopes are kept as entries where at most this share of them is not zero."""
LEAK = 0.2
"""The share of the change that may come from outside the footprints before all are measured one by one again."""
ADDRESSES = 8
"""Owners are looked for where that costs at most one in so many evaluations of the budget."""
SILENT = 0.25
"""From this share of such coordinates on all are measured one by one."""
MEAN = 20
"""Measurements under noise of which the mean is taken, at most."""
NEGLIGIBLE = 1e-4
"""Changes below this share of the largest count as none."""


@final
class Shared(NamedTuple):
    """The cells (outputs, or pixels) that each coordinate touches, by which coordinates share a probe."""

    item: Tensor
    cell: Tensor
    cells: int
    grid: Grid | None


@final
class Measurement:
    """How the slopes are measured, and what is known of them.

    Args:
        parameters: What the entries mean.
        budget: Evaluations in all.

    Attributes:
        slopes: Along the directions of the last measurement: the free coordinates, or random directions.
        cost: Rows of one measurement.
        random: Whether the directions are random.
        known: Whether anything was measured.
        asking: Whether the next probes ask which output belongs to which parameter.
        astray: Whether the last measurement led nowhere: few coordinates are then moved each as far as chance wants.
        seeking: Whether the next measurement first finds out how far to look.
        scouts: The portions of such a measurement while it lasts.
        grid: The picture that the outputs form, or ``None``.
    """

    def __init__(self, parameters: Parameters, budget: int) -> None:
        self.parameters, self.budget = parameters, budget
        self.free = (~parameters.fixed.cpu()).nonzero()[:, 0]
        self.low, self.high = parameters.lower.cpu()[self.free], parameters.upper.cpu()[self.free]
        self.outputs, self.cost = 0, 0
        self.noisy = self.random = self.known = self.apart = self.sharing = self.asking = self.seeking = self.astray = (
            False
        )
        self.rounds = 0
        self.grid: Grid | None = None
        self.slopes = Slopes.zeros(0, 0)
        self.farther = torch.ones(len(self.free), dtype=torch.float64)
        self.scouts: Scouts | None = None
        self.directions = torch.zeros(0, 0, dtype=torch.float64)
        self._shared: Shared | None = None
        self._groups = torch.zeros(0, dtype=torch.long)
        self._steps = torch.zeros(0, dtype=torch.float64)

    def begin(self, outputs: int, grid: Grid | None, *, smooth: bool, noisy: bool) -> None:
        """Choose how to measure, once it is known what one evaluation gives."""
        self.outputs, self.noisy, self.grid = outputs, noisy, grid
        free = len(self.free)
        fits = free * outputs <= LARGEST_MATRIX
        self.random = not (fits and free <= max(FEW, self.budget // SWEEPS))
        self.cost = free
        if self.random:
            self.cost = max(1, min(DIRECTIONS, max(4, self.budget // 32), LARGEST_MATRIX // max(free, outputs), free))
            self.asking = not noisy and free >= MANY and ADDRESSES * len(addresses(free)) <= self.budget
        else:
            self.slopes = Slopes.zeros(free, outputs)
            self.seeking = not (self.few or smooth or noisy)

    @property
    def few(self) -> bool:
        """Whether there are too few parameters to look for footprints."""
        return len(self.free) < MANY

    def part(self) -> bool:
        """Measure one by one from now on, if probes were shared; else share them again. Whether they were shared."""
        self.apart = self.sharing
        return self.sharing

    # --- where to look

    def offsets(self, center: Vector, reach: float, room: int, generator: torch.Generator) -> Points:
        """The probes of a measurement, at most ``room`` rows, ``reach`` away."""
        self.asking &= len(addresses(len(self.free))) <= room
        if self.random and not self.asking:
            rows = min(self.cost, room)
            self.directions = torch.randn(rows, len(self.free), dtype=torch.float64, generator=generator)
            self._steps = torch.full((rows,), reach if reach < 0.01 else 0.3 * reach, dtype=torch.float64)
            return self.spread(self._steps[:, None] * torch.eye(rows, dtype=torch.float64)).to(center)
        here = center[self.free].double()
        length = reach * self.farther
        if self.astray and self.few:  # a jump that hides the way at one length does not at another
            length = length * FARTHEST ** torch.rand(len(here), dtype=torch.float64, generator=generator)
        length = torch.maximum(self.parameters.granularity.cpu()[self.free], length.to(center))
        signs = self._signs(generator)
        outside = (here + signs * length > self.high) | (here + signs * length < self.low)
        inwards = torch.where(here - self.low > self.high - here, -1.0, 1.0).double()
        wanted = here + torch.where(outside, inwards, signs) * length
        self._steps = torch.minimum(torch.maximum(wanted, self.low), self.high) - here
        if self.asking:
            rows_of = center.new_zeros(len(moved := addresses(len(self.free))), len(center))
            rows_of[:, self.free] = (moved * self._steps).to(center)
            return rows_of
        groups, count = self._grouped(generator)
        if count > room:
            place = torch.full((count,), -1)
            place[torch.randperm(count, generator=generator)[:room]] = torch.arange(room)
            groups, count = torch.where(groups >= 0, place[groups.clamp(min=0)], -1), room
        self._groups = groups
        rows_of = center.new_zeros(count, len(center))
        measured = groups >= 0
        rows_of[groups[measured], self.free[measured]] = self._steps[measured].to(center)
        return rows_of

    def _signs(self, generator: torch.Generator) -> Tensor:
        """The side to which each coordinate is moved."""
        if self.scouts is not None:
            return self.scouts.signs
        signs = torch.randint(2, (len(self.free),), generator=generator).double() * 2 - 1
        if self.seeking:
            self.scouts, self.seeking = Scouts(signs), False
        return signs

    def _grouped(self, generator: torch.Generator) -> tuple[Tensor, int]:
        """The group of each coordinate (-1 for none), and how many groups there are."""
        free = len(self.free)
        if self.scouts is not None:
            groups, portion = torch.full((free,), -1), self.scouts.portion
            groups[portion] = torch.arange(len(portion))
            return groups, len(portion)
        if self.apart:
            self._mix()
        self._shared = self._footprints()
        self.sharing = self._shared is not None
        if self._shared is None:
            self.cost = free
            return torch.arange(free), free
        group = colours(free, self._shared.item, self._shared.cell, self._shared.cells)
        count = max(1, int(group.max()) + 1)
        # What has touched nothing so far: at most one in each group, to which all belongs that nobody else owns.
        idle = (group < 0).nonzero()[:, 0]
        some = min(len(idle), count)
        idle = idle[torch.randperm(len(idle), generator=generator)[:some]]
        group[idle] = torch.randperm(count, generator=generator)[:some]
        self.cost = count
        return group, count

    def _footprints(self) -> Shared | None:
        """What each coordinate touches, with a margin where the outputs are a picture; ``None`` where it is all."""
        item, output, grid = self.slopes.direction, self.slopes.output, self.grid
        searching = (self.slopes.squares() == 0) & (self.farther > 1) & (self.farther < FARTHEST)
        if item is None or output is None or float(searching.double().mean()) > SILENT:
            return None
        free = len(self.free)
        if grid is None or free * grid.pixels > LARGEST_MATRIX:
            return Shared(item, output, self.outputs, None)
        marked = torch.zeros(free, grid.pixels, dtype=torch.bool)
        marked[item, grid.pixel(output)] = True
        item, pixel = grid.widened(marked).nonzero(as_tuple=True)
        return Shared(item, pixel, grid.pixels, grid)

    # --- what came back

    def told(self, residuals: Float[Tensor, "n m"], center: Outcomes) -> None:
        """Take the residuals at the probes, and those at the centre."""
        change = residuals - center
        if self.asking:
            self._own(change)
            return
        good = change.isfinite().all(1)
        if self.random:
            slopes = Slopes.zeros(len(change), self.outputs)
            slopes.value.copy_(torch.where(good[:, None], change / self._steps[:, None], 0.0))
            self.slopes = slopes
        elif self._shared is not None:
            self._divide(self._shared, change, good)
        else:
            picked = (self._groups >= 0).nonzero()[:, 0]
            picked = picked[good[self._groups[picked]]]
            self.slopes = self.slopes.dense()
            matrix = self.slopes.value
            found = (change[self._groups[picked]] / self._steps[picked, None]).to(matrix)
            # Under noise the mean of the last few; they are forgotten when the centre has moved far.
            matrix[picked] = torch.lerp(matrix[picked], found, 1 / (self.rounds + 1)) if self.noisy else found
            self.rounds = min(self.rounds + 1, MEAN - 1)
            measured = len(picked)
            if self.scouts is not None:
                measured += len(self.free) - len(self.scouts.portion)
                self.scouts.told((matrix != 0).any(1), self.farther)
                if len(self.scouts.portion):
                    return
                self.scouts = None
            else:
                silent = picked[(found == 0).all(1)]
                self.farther[silent] = (2 * self.farther[silent]).clamp(max=FARTHEST)
            whole = measured == len(self.free) >= MANY
            if whole and not self.noisy:
                self.slopes = self.slopes.thinned(NEGLIGIBLE, SPARSE)
        self.known = True

    def _own(self, change: Float[Tensor, "rows m"]) -> None:
        """Slopes from who owns which output, at once; random directions stay where outputs have many owners."""
        self.asking = False
        item = owners(change, len(self.free)) if bool(change.isfinite().all()) else None
        if item is None:
            return
        output = (item >= 0).nonzero()[:, 0]
        item = item[output]
        # An owner moves its outputs in one of the two probes of each place.
        value = 2 * change[:, output].sum(0) / (len(change) * self._steps[item])
        none = Slopes(len(self.free), self.outputs, value[:0].float(), item[:0], output[:0])
        self.slopes = none.renewed(torch.zeros(len(self.free), dtype=torch.bool), item, output, value)
        self.random, self.known, self.cost = False, True, 1

    def _mix(self) -> None:
        """From now on any parameter may touch any output, as far as a matrix of them fits."""
        if self.slopes.directions * self.slopes.outputs <= LARGEST_MATRIX:
            self.slopes = self.slopes.dense()

    def _divide(self, shared: Shared, change: Tensor, good: Tensor) -> None:
        """Share the change of each group's outputs among its members."""
        owner = self._owners(shared, len(change))
        least = NEGLIGIBLE * change.abs().nan_to_num(0.0).amax(1, keepdim=True)
        row, output = ((change.abs() > least) & good[:, None]).nonzero(as_tuple=True)
        item = owner[row, output if shared.grid is None else shared.grid.pixel(output)]
        found, known = change[row, output], item >= 0
        total, leaked = float(found.square().sum()), float(found[~known].square().sum())
        item, output, found = item[known], output[known], found[known]
        stale = self._groups < 0
        stale[~stale] = ~good[self._groups[~stale]]
        self.slopes = self.slopes.renewed(stale, item, output, found / self._steps[item])
        if leaked > LEAK * total:
            self._mix()

    def _owners(self, shared: Shared, groups: int) -> Tensor:
        """The member of each group that each cell belongs to, shape (groups, cells); -1 for none."""
        owner = torch.full((groups, shared.cells), -1)
        group = self._groups[shared.item]
        measured = group >= 0
        owner[group[measured], shared.cell[measured]] = shared.item[measured]
        if shared.grid is not None:
            owner = shared.grid.nearest(owner)
        touching = torch.zeros(len(self.free), dtype=torch.bool)
        touching[shared.item] = True
        idle = ((self._groups >= 0) & ~touching).nonzero()[:, 0]
        host = self._groups[idle]
        owner[host] = torch.where(owner[host] < 0, idle[:, None], owner[host])
        return owner

    # --- between directions and parameters

    def movable(self, center: Vector, gradient: Amounts) -> Amounts:
        """1 for directions that a step may take, 0 for those that lead out of the bounds."""
        if self.random:
            return torch.ones_like(gradient)
        here = center[self.free].double()
        stuck = ((here <= self.low) & (gradient > 0)) | ((here >= self.high) & (gradient < 0))
        return (~stuck).double()

    def spread(self, steps: Float[Tensor, "n k"]) -> Points:
        """Steps along the directions as steps of the parameters."""
        wide = steps.new_zeros(len(steps), len(self.parameters))
        wide[:, self.free] = steps @ self.directions if self.random else steps
        return wide

    KEPT = (
        "outputs",
        "noisy",
        "random",
        "known",
        "apart",
        "sharing",
        "asking",
        "seeking",
        "astray",
        "cost",
        "rounds",
        "directions",
        "farther",
    )

    def state_dict(self) -> dict[str, Any]:
        """What was measured, and how."""
        state: dict[str, Any] = {name: getattr(self, name) for name in self.KEPT}
        state["grid"] = None if self.grid is None else self.grid.sizes
        state["scouts"] = None if self.scouts is None else self.scouts.state_dict()
        return state | {"slopes": self.slopes.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave, between two steps."""
        for name in self.KEPT:
            setattr(self, name, state[name])
        self.grid = None if state["grid"] is None else Grid(*state["grid"])
        self.scouts = None if state["scouts"] is None else Scouts.of(state["scouts"])
        self.slopes = Slopes(**state["slopes"])
