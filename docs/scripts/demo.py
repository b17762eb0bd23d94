"""The picture of the README: what `zograd demo` starts from, what it is shown, and what it makes of it."""

from _style import PICTURES
from PIL import Image

from zograd.problems import picture
from zograd.report import comparison

problem = picture()
parameters = problem.parameters()
result = problem.solve(seed=0, progress=False)
print(f"{problem.fun(problem.x0):.4g} -> {result.fun:.4g} with {result.nfev} evaluations in {result.seconds:.0f} s")
pictures = {
    "before": problem.draw(parameters.decode(parameters.initial), 320),
    "photograph": problem.target(320),
    f"after {result.nfev:,} evaluations": problem.draw(result.x, 320),
}
path = comparison(pictures, PICTURES / "demo.png", height=288)
with Image.open(path) as sheet:
    few = sheet.quantize(160, dither=Image.Dither.NONE)
few.save(path, optimize=True)
