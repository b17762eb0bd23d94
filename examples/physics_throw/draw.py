"""Draw a throw: `python draw.py throw.json throw.png`; --plain draws with matplotlib where nothing can render."""

import argparse
import json
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
import mujoco
import numpy as np
import throw
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

TIMES = (0.0, 0.75, 1.0, 3.4)
BALL_COLOR, TARGET_COLOR = "#1b6ca8", "#c23b4b"


def rendered(states: list[np.ndarray], until: float) -> np.ndarray:
    """The scene at a moment, with the ball's way so far."""
    data = mujoco.MjData(throw.MODEL)
    camera = mujoco.MjvCamera()
    camera.lookat[:], camera.distance, camera.azimuth, camera.elevation = (4.5, -0.1, 0.8), 7.2, 122.0, -17.0
    shown = [state for state in states if state[0] <= until + 1e-9]
    data.qpos[:] = shown[-1][1 : 1 + throw.MODEL.nq]
    mujoco.mj_forward(throw.MODEL, data)
    with mujoco.Renderer(throw.MODEL, 240, 384) as renderer:
        renderer.update_scene(data, camera)
        for state in shown[:-1]:
            if renderer.scene.ngeom < renderer.scene.maxgeom:
                mujoco.mjv_initGeom(
                    renderer.scene.geoms[renderer.scene.ngeom],
                    mujoco.mjtGeom.mjGEOM_SPHERE,
                    np.full(3, 0.03),
                    state[1:4],
                    np.eye(3).ravel(),
                    np.array([0.11, 0.42, 0.66, 1.0], dtype=np.float32),
                )
                renderer.scene.ngeom += 1
        return renderer.render()


def plain(axes: Axes, states: list[np.ndarray], until: float) -> None:
    """The same from the side, where nothing can be rendered."""
    shown = np.array([state for state in states if state[0] <= until + 1e-9])
    data = mujoco.MjData(throw.MODEL)
    data.qpos[:] = shown[-1][1 : 1 + throw.MODEL.nq]
    mujoco.mj_forward(throw.MODEL, data)
    axes.add_patch(Rectangle((2.92, 0), 0.16, 1.6, color="#73808f"))
    for body in range(throw.BALL + 1, throw.MODEL.nbody):
        corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * 0.2
        placed = data.xpos[body] + corners @ data.xmat[body].reshape(3, 3).T
        low, high = placed.min(0), placed.max(0)
        color = TARGET_COLOR if body == throw.TARGET else "#d9ad6b"
        axes.add_patch(Rectangle((low[0], low[2]), *(high - low)[[0, 2]], facecolor=color, edgecolor="white"))
    axes.plot(shown[:, 1], shown[:, 3], color=BALL_COLOR, lw=1, ls=":")
    axes.plot(shown[-1, 1], shown[-1, 3], "o", color=BALL_COLOR, ms=8)
    axes.plot([throw.MARK[0] - throw.HIT, throw.MARK[0] + throw.HIT], [0, 0], color="#2a8f5b", lw=4)
    axes.set(xlim=(-0.5, 9), ylim=(-0.1, 4.5), aspect="equal")


def main() -> None:
    """Simulate once more and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("values", type=Path, help="the throw, as run.py writes it")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--plain", action="store_true", help="draw with matplotlib, without a renderer")
    arguments = parser.parse_args()
    thrown = throw.simulate(json.loads(arguments.values.read_text()), every=0.04)
    figure, panels = plt.subplots(2, 2, figsize=(8.8, 5.6), layout="constrained")
    for axes, until in zip(panels.flat, TIMES, strict=True):
        if arguments.plain:
            plain(axes, thrown.states, until)
        else:
            axes.imshow(rendered(thrown.states, until))
            axes.set_axis_off()
        axes.set_title(f"{until:.2f} s", loc="left", fontsize=10)
    figure.suptitle(
        f"The red block comes to rest {100 * thrown.distance:.0f} cm from the middle of the mark", fontsize=11
    )
    figure.savefig(arguments.picture, dpi=80, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
