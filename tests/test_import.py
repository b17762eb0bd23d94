"""`import zograd` is cheap and leaves the process as it found it."""

import subprocess
import sys

HEAVY = [
    "PIL",
    "cma",
    "cmaes",
    "click",
    "ioh",
    "jinja2",
    "matplotlib",
    "nevergrad",
    "pandas",
    "rich",
    "scipy",
    "skia",
    "sklearn",
    "tensorboard",
]

SNAPSHOT = f"""
import logging, os, random, signal, sys, threading, warnings
import numpy, torch

def state():
    return {{
        "torch generator": torch.get_rng_state().tolist(),
        "numpy generator": [part.tolist() if hasattr(part, "tolist") else part for part in numpy.random.get_state()],
        "python generator": random.getstate(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "gradient mode": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads(), threading.active_count()),
        "warning filters": list(warnings.filters),
        "numpy errors": numpy.geterr(),
        "logging": (logging.root.level, list(logging.root.handlers)),
        "environment": dict(os.environ),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "hooks": (sys.excepthook, sys.displayhook, sys.stdout, sys.stderr),
        "folder": os.getcwd(),
    }}

before, known = state(), set(sys.modules)
import zograd
after = state()
print([name for name in before if before[name] != after[name]])
print([name for name in {HEAVY!r} if name in set(sys.modules) - known])
"""


def test_import_leaves_global_state_alone_and_loads_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SNAPSHOT], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[]", "[]"]
    assert done.stderr == ""
