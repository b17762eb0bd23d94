"""The throw as a black box: a ball over a wall, into a stack of blocks; the red one must come to rest on the mark."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import zograd as zo

try:
    import mujoco
except ImportError:
    sys.exit("This example needs MuJoCo, which was not found. Install it with: pip install -r requirements.txt")

BOUNDS = {
    "speed": (6.0, 14.0),  # metres a second
    "elevation": (10.0, 70.0),  # degrees
    "azimuth": (-12.0, 12.0),  # degrees
    "topspin": (-80.0, 80.0),  # radians a second
    "sidespin": (-80.0, 80.0),
    "height": (0.5, 2.0),  # of the release, metres
}
DURATION = 3.5
"""Seconds simulated."""
ATTEMPT = 100
"""Throws from one start."""
MODEL = mujoco.MjModel.from_xml_path(str(Path(__file__).parent / "scene.xml"))
BALL, TARGET = (MODEL.body(name).id for name in ("ball", "target"))
BALL_GEOM, WALL = (MODEL.geom(name).id for name in ("ball", "wall"))
WALL_AT, NEAR = float(MODEL.geom("wall").pos[0]), 0.5
MARK = MODEL.site("mark").pos[:2].copy()
HIT = float(MODEL.site("mark").size[0])
"""The throw is a hit where the red block ends with its centre on the mark: within its radius, in metres."""


@dataclass
class Throw:
    """What came of one throw.

    Args:
        distance: Of the red block from the mark, at the end, in metres.
        approach: How near the ball came to the red block, in metres; 0 where they touched.
        touched_wall: Whether the ball touched the wall.
        states: Seconds, positions and velocities of all, for the picture; empty where not asked for.
    """

    distance: float
    approach: float
    touched_wall: bool
    states: list[np.ndarray] = field(default_factory=list, repr=False)

    @property
    def loss(self) -> float:
        """The distance from the mark, and what leads there while the block has not moved."""
        return self.distance + 0.5 * self.approach + 0.5 * self.touched_wall

    @property
    def hit(self) -> bool:
        """Whether the block lies on the mark."""
        return self.distance <= HIT


def simulate(values: dict[str, float], every: float | None = None) -> Throw:
    """One throw, always the same for the same values.

    Args:
        values: As named in ``BOUNDS``.
        every: Keep a state so often, in seconds.
    """
    data = mujoco.MjData(MODEL)
    elevation, azimuth = np.radians(values["elevation"]), np.radians(values["azimuth"])
    ahead = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    place, speed = MODEL.body("ball").jntadr[0], values["speed"]
    position, velocity = MODEL.jnt_qposadr[place], MODEL.jnt_dofadr[place]
    data.qpos[position + 2] = values["height"]
    data.qvel[velocity : velocity + 6] = [*(speed * ahead), 0.0, values["topspin"], values["sidespin"]]
    approach, touched_wall, states = np.inf, False, []
    touching = 0.15 + 0.2
    for number in range(round(DURATION / MODEL.opt.timestep)):
        if every is not None and number % round(every / MODEL.opt.timestep) == 0:
            states.append(np.concatenate([[data.time], data.qpos, data.qvel]))
        mujoco.mj_step(MODEL, data)
        approach = min(approach, float(np.linalg.norm(data.xpos[BALL] - data.xpos[TARGET])))
        # Contacts are looked at only where the ball may have one with the wall: that takes longer than the step itself.
        if not touched_wall and abs(data.xpos[BALL][0] - WALL_AT) < NEAR:
            pairs = data.contact.geom
            touched_wall = bool(((pairs == BALL_GEOM).any(1) & (pairs == WALL).any(1)).any())
    distance = float(np.linalg.norm(data.xpos[TARGET][:2] - MARK))
    return Throw(distance, max(approach - touching, 0.0), touched_wall, states)


def loss(values: dict[str, float]) -> float:
    """The loss of one throw."""
    return simulate(values).loss


def start(seed: int, attempt: int = 0) -> dict[str, float]:
    """A throw to begin with, from the middle half of the bounds: most of these do not touch the stack."""
    generator = np.random.default_rng([seed, attempt])
    return {name: float(generator.uniform(0.75 * a + 0.25 * b, 0.25 * a + 0.75 * b)) for name, (a, b) in BOUNDS.items()}


def solve(function: Callable[[dict[str, float]], float], evaluations: int, seed: int, **options: Any) -> zo.Result:
    """Minimise until the first hit, from another start after every 100 throws without one.

    A contact that comes a little later sends the block elsewhere: the landscape has many cells, a descent sees the one
    that it is in, and the best place of that one may lie beside the mark.

    Args:
        function: `loss`, or what counts its calls.
        evaluations: Throws in all.
        seed: Of the starts.
        options: More for `zo.minimize`.
    """
    best, thrown, attempt = None, 0, 0
    while best is None or (best.success and best.fun > HIT and evaluations - thrown > 2 * len(BOUNDS) + 1):
        result = zo.minimize(
            function,
            start(seed, attempt),
            bounds=BOUNDS,
            evaluations=min(ATTEMPT, evaluations - thrown),
            target=HIT,
            seed=seed,
            **options,
        )
        thrown, attempt = thrown + result.nfev, attempt + 1
        best = result if best is None or result.fun < best.fun or not result.success else best
    return replace(best, nfev=thrown)
