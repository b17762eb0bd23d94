"""The operational amplifier as a black box: its parameters, the program that simulates it, what is asked of it."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import zograd as zo

NETLIST = Path(__file__).parent / "opamp.cir"

BOUNDS = {
    "width_input": (1.0, 400.0),  # micrometres
    "width_load": (1.0, 400.0),
    "width_tail": (1.0, 400.0),
    "width_driver": (1.0, 400.0),
    "width_sink": (1.0, 400.0),
    "length": (0.18, 2.0),
    "bias": (1.0, 100.0),  # microamperes
    "cc": (0.1, 10.0),  # picofarads
    "rz": (10.0, 20e3),  # ohms
}
CENTER = {name: float(np.sqrt(lower * upper)) for name, (lower, upper) in BOUNDS.items()}
"""The middle of the box: on a log scale, the geometric mean of the bounds."""

GAIN, UNITY_GAIN, PHASE_MARGIN, POWER = 85.0, 300e6, 60.0, 1.0
"""What is asked: at least so many decibels, hertz and degrees, at most so many milliwatts."""
PLATEAU = 4.0
"""The most that the loss can be, and what a failed measurement counts as where it is not dropped."""

MEASURED = {name: rf"(?m)^{name}\s*=\s*(\S+)" for name in ("milliwatts", "gain", "unity", "phase")}


def program() -> zo.Program:
    """The netlist rendered, simulated and measured: the loss of one amplifier."""
    if shutil.which("ngspice") is None:
        sys.exit("This example needs ngspice, which was not found. On Debian or Ubuntu: apt-get install ngspice")
    return zo.Program(["ngspice", "-b", NETLIST.name], templates=[NETLIST], result=MEASURED, then=loss, timeout=10.0)


def misses(measured: dict[str, float]) -> dict[str, float]:
    """By how much each wish is missed, as a share of it, at most 1."""
    short = {
        "gain": 1 - measured["gain"] / GAIN,
        "unity gain": 1 - measured["unity"] / UNITY_GAIN,
        "phase margin": 1 - (180 + measured["phase"]) / PHASE_MARGIN,
        "power": measured["milliwatts"] / POWER - 1,
    }
    return {name: min(max(miss, 0.0), 1.0) for name, miss in short.items()}


def loss(measured: dict[str, float]) -> float:
    """The sum of the clipped misses: 0 for an amplifier that does all that is asked."""
    return sum(misses(measured).values())


def described(measured: dict[str, float]) -> str:
    """The measurements in one line."""
    return (
        f"gain {measured['gain']:.1f} dB, unity gain {measured['unity'] / 1e6:.0f} MHz, "
        f"phase margin {180 + measured['phase']:.0f} degrees, power {measured['milliwatts']:.2f} mW"
    )


def response(values: dict[str, float]) -> tuple[np.ndarray, dict[str, float]]:
    """The whole frequency response, which no evaluation needs, for the picture.

    Returns:
        Rows of hertz, decibels and degrees; and the measurements.
    """
    simulated = zo.Program(
        ["ngspice", "-b", NETLIST.name], templates=[NETLIST], result=MEASURED, then=dict, timeout=10.0
    )
    measured = simulated.function(values)
    text = NETLIST.read_text().replace("quit 0", "set wr_singlescale\nwrdata response.txt decibels degrees\nquit 0")
    for name, value in values.items():
        text = text.replace(f"${{{name}}}", str(value))
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / NETLIST.name).write_text(text)
        subprocess.run(["ngspice", "-b", NETLIST.name], cwd=scratch, check=True, capture_output=True)
        return np.loadtxt(Path(scratch) / "response.txt"), measured
