"""Throw a ball over a wall so that it knocks the red block onto the mark.

    python run.py --evaluations 600 --seed 0 --workers 2

prints progress and writes throw.json (the throw) and throw.png (what it does).
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import throw

import zograd as zo

HERE = Path(__file__).resolve().parent


def draw(values: Path, picture: Path) -> str:
    """Draw in a process of its own: a graphics driver that fails must not take the result with it.

    Returns:
        What it was drawn with; empty where nothing worked.
    """
    command = [sys.executable, str(HERE / "draw.py"), str(values), str(picture)]
    for backend in (os.environ.get("MUJOCO_GL", "egl"), "osmesa"):
        if subprocess.run(command, env={**os.environ, "MUJOCO_GL": backend}, capture_output=True).returncode == 0:
            return backend
    environment = {**os.environ, "MUJOCO_GL": "disable"}
    return "" if subprocess.run([*command, "--plain"], env=environment).returncode else "matplotlib"


def main() -> None:
    """Minimise and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evaluations", type=int, default=600, help="throws, at most (default 600)")
    parser.add_argument("--seed", type=int, default=0, help="of the throw to begin with")
    parser.add_argument("--workers", type=int, default=1, help="throws at a time (default 1)")
    parser.add_argument("--picture", type=Path, default=HERE / "throw.png")
    arguments = parser.parse_args()

    def progress(so_far: zo.Result) -> None:
        print(f"{so_far.nfev:5d} throws from this start, best loss {so_far.fun:.3f}", flush=True)

    before = throw.simulate(throw.start(arguments.seed))
    print(f"first throw: loss {before.loss:.3f}, the ball passes the red block by {before.approach:.2f} m", flush=True)
    result = throw.solve(
        throw.loss, arguments.evaluations, arguments.seed, callback=progress, workers=arguments.workers
    )
    thrown = throw.simulate(result.x)
    said = "a hit" if thrown.hit else "no hit"
    print(f"{result.nfev} throws: {said}, the red block rests {100 * thrown.distance:.0f} cm from the mark's middle")
    print(", ".join(f"{name} {value:.4g}" for name, value in result.x.items()))
    values = arguments.picture.with_suffix(".json")
    values.write_text(json.dumps(result.x, indent=1) + "\n")
    drawn = draw(values, arguments.picture)
    print(f"picture ({drawn}): {arguments.picture}" if drawn else "nothing here could draw the picture")


if __name__ == "__main__":
    main()
