"""Size a two-stage operational amplifier with ngspice.

    python run.py --evaluations 1000 --seed 0 --workers 2

prints progress and writes opamp.png: the frequency response before and after.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import opamp

import zograd as zo

INK, GREY, FAINT, BLUE, GREEN = "#22303c", "#8a97a3", "#dfe5ea", "#1b6ca8", "#2a8f5b"


def draw(before: dict[str, float], after: dict[str, float], path: Path) -> None:
    """The Bode plot of two amplifiers."""
    plt.rcParams.update({"font.size": 10, "axes.edgecolor": GREY, "axes.labelcolor": INK, "text.color": INK,
                         "axes.spines.top": False, "axes.spines.right": False})  # fmt: skip
    figure, (gain, phase) = plt.subplots(
        2, 1, figsize=(7.6, 6.2), sharex=True, layout="constrained", gridspec_kw={"height_ratios": [3, 2]}
    )
    for values, color, name in ((before, GREY, "before"), (after, BLUE, "after")):
        response, measured = opamp.response(values)
        gain.semilogx(response[:, 0], response[:, 1], color=color, lw=2)
        phase.semilogx(response[:, 0], response[:, 2] + 180, color=color, lw=2)
        gain.plot(measured["unity"], 0, "o", color=color)
        phase.plot(measured["unity"], 180 + measured["phase"], "o", color=color)
        gain.text(15, {"before": -24, "after": -13}[name], f"{name}: {opamp.described(measured)}",
                  color=INK if name == "before" else BLUE, fontsize=8.5)  # fmt: skip
    gain.plot([10, 1e3], [opamp.GAIN] * 2, color=GREEN, lw=1.5, ls="--")
    gain.text(12, opamp.GAIN - 3, f"{opamp.GAIN:.0f} dB asked", color=GREEN, va="top", fontsize=9)
    gain.plot([opamp.UNITY_GAIN] * 2, [-8, 8], color=GREEN, lw=1.5, ls="--")
    gain.text(opamp.UNITY_GAIN * 1.15, 7, f"{opamp.UNITY_GAIN / 1e6:.0f} MHz asked", color=GREEN, fontsize=9)
    phase.plot([1e7, 1e10], [opamp.PHASE_MARGIN] * 2, color=GREEN, lw=1.5, ls="--")
    phase.text(9e6, opamp.PHASE_MARGIN, f"{opamp.PHASE_MARGIN:.0f} degrees asked", color=GREEN, va="center",
               ha="right", fontsize=9)  # fmt: skip
    gain.set(ylim=(-35, 100), ylabel="gain, dB")
    phase.set(ylim=(-60, 190), ylabel="phase + 180, degrees", xlabel="frequency, Hz", xlim=(10, 1e10))
    phase.set_xticks(10.0 ** np.arange(1, 11))
    for axes in (gain, phase):
        axes.grid(color=FAINT, lw=0.7)
        axes.set_axisbelow(True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Minimise and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evaluations", type=int, default=1000, help="simulations (default 1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="simulations at a time (default 1)")
    parser.add_argument(
        "--failed", choices=("drop", "plateau"), default="drop",
        help="a failed measurement is left out (drop), or counts as the largest loss there is (plateau)",
    )  # fmt: skip
    parser.add_argument("--picture", type=Path, default=Path(__file__).resolve().parent / "opamp.png")
    arguments = parser.parse_args()

    def progress(so_far: zo.Result) -> None:
        print(f"{so_far.nfev:6d} simulations, best loss {so_far.fun:.4f}", flush=True)

    with opamp.program() as program:
        result = zo.minimize(
            program,
            opamp.CENTER,
            bounds=opamp.BOUNDS,
            scale="log",
            evaluations=arguments.evaluations,
            on_failure="drop" if arguments.failed == "drop" else zo.value(opamp.PLATEAU),
            target=0.0,
            workers=arguments.workers,
            seed=arguments.seed,
            callback=progress,
        )
    print(result.message)
    _, before = opamp.response(opamp.CENTER)
    _, after = opamp.response(result.x)
    print(f"before: loss {opamp.loss(before):.4f}, {opamp.described(before)}")
    print(f"after:  loss {result.fun:.4f}, {opamp.described(after)}")
    print("        " + ", ".join(f"{name} {value:.4g}" for name, value in result.x.items()))
    draw(opamp.CENTER, result.x, arguments.picture)
    print(f"picture: {arguments.picture}")


if __name__ == "__main__":
    main()
