"""What `import zograd` costs over `import torch`: the median of paired runs, each in a process of its own.

Run with: python benchmarks/import_time.py [pairs]
"""

import statistics
import subprocess
import sys

TARGET = 0.3
MEASURE = "import time; start = time.perf_counter(); import {module}; print(time.perf_counter() - start)"


def seconds(module: str) -> float:
    """The time that one import takes in a fresh interpreter."""
    command = [sys.executable, "-c", MEASURE.format(module=module)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main(pairs: int) -> None:
    """Print the median difference and the spread of it."""
    seconds("zograd")  # the first one reads the files from disk
    found = sorted(seconds("zograd") - seconds("torch") for _ in range(pairs))
    median = statistics.median(found)
    print(f"import zograd - import torch: {median:.3f} s (median of {pairs} pairs; {found[0]:.3f} to {found[-1]:.3f})")
    print(f"target of at most {TARGET} s: {'met' if median <= TARGET else 'missed'}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
