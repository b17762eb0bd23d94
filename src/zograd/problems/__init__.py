"""Ready-made problems without a gradient: for the demo, the benchmarks, the documentation and the tests.

Each function makes one `Problem`. A new one is a file here, an import below and its name in ``ALL``; the command line
finds it there, with its arguments as options.
"""

from zograd.problems._problem import Problem
from zograd.problems.caustic import caustic
from zograd.problems.cornell import cornell
from zograd.problems.house import house
from zograd.problems.led import led
from zograd.problems.mesh import mesh
from zograd.problems.mnist_weights import mnist_weights
from zograd.problems.picture import picture
from zograd.problems.plateau import plateau
from zograd.problems.rocket import rocket
from zograd.problems.rosenbrock import rosenbrock
from zograd.problems.strokes import strokes
from zograd.problems.texture import texture
from zograd.problems.toy import toy

ALL = (picture, plateau, rosenbrock, toy, led, caustic, texture, mnist_weights, strokes, mesh, cornell, house, rocket)

__all__ = [
    "ALL",
    "Problem",
    "caustic",
    "cornell",
    "house",
    "led",
    "mesh",
    "mnist_weights",
    "picture",
    "plateau",
    "rocket",
    "rosenbrock",
    "strokes",
    "texture",
    "toy",
]
