"""Ready-made problems without a gradient: for the demo, the benchmarks, the documentation and the tests.

Each function makes one `Problem`. A new one is a file here, an import below and its name in ``ALL``; the command line
finds it there, with its arguments as options.
"""

from zograd.problems._problem import Problem
from zograd.problems.picture import picture
from zograd.problems.plateau import plateau
from zograd.problems.rosenbrock import rosenbrock

ALL = (picture, plateau, rosenbrock)

__all__ = ["ALL", "Problem", "picture", "plateau", "rosenbrock"]
