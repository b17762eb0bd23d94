"""The walls of the house: layers, abstract-or-final, pinned public names, no asserts, short files."""

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import zograd

SOURCE = Path(zograd.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

LONGEST_FILE = 500

# Bottom first. A room imports from the rows below its own, and from itself; `BESIDE` names the exceptions.
LAYERS: list[set[str]] = [
    {"_errors", "_typing", "_checks", "_arrays", "_colours"},
    {"_probes", "_leaves", "_bounds", "_units"},
    {"_parameters"},
    {"estimators", "blackbox"},
    {"evaluate"},
    {"_differentiable", "_backward", "strategies", "optim", "nn"},
    {"_configuration", "_snapshot", "_record", "_history", "_result", "_telling", "_interrupt", "testing"},
    {"_run_file", "_wave"},
    {"_run"},
    {"_minimize"},
    {"_minimize_least_squares"},
    {"problems"},
    {"report"},
    {"cli"},
    {"__main__"},
]
BESIDE = {
    ("_checks", "_errors"),
    ("strategies", "optim"),
    ("_bounds", "_leaves"),
    ("_units", "_leaves"),
    ("nn", "_backward"),
}
FACE = "zograd"  # `import zograd`: the public names only

PUBLIC = [
    "ArgumentError",
    "BlackBox",
    "CoordinateGradient",
    "Coordinates",
    "Dense",
    "Descent",
    "Estimate",
    "EvaluationError",
    "ForwardGradient",
    "FrameGradient",
    "GaussNewton",
    "GradientError",
    "GradientEstimator",
    "MissingExtraError",
    "NearestNeighbourGradient",
    "NeuralSurrogate",
    "Parameters",
    "PolynomialSurrogate",
    "Pool",
    "Probes",
    "Program",
    "PublishedSurrogate",
    "RandomGradient",
    "Record",
    "Result",
    "Run",
    "RunError",
    "Seeded",
    "SmoothedGradient",
    "Step",
    "Strategy",
    "ZogradError",
    "ZogradWarning",
    "backward",
    "batched",
    "differentiable",
    "minimize",
    "minimize_least_squares",
    "nn",
    "optim",
    "pointwise",
    "read_run",
    "retry",
    "torch_function",
    "value",
]


def room_of(path: Path) -> str:
    """The package or module right below ``zograd`` that a file belongs to."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def module_name(path: Path) -> str:
    """``zograd.estimators._random`` for ``zograd/estimators/_random.py``."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(tree: ast.Module, name: str, is_package: bool) -> Iterator[str]:
    """Every zograd module that a file imports, wherever in the file: also inside functions and for typing."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = name.split(".") if is_package else name.split(".")[:-1]
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            found = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (module for module in found if module.split(".")[0] == "zograd")


def target_of(imported: str) -> str:
    """The room that an import reaches: `FACE` for public names of ``zograd`` itself."""
    parts = imported.split(".")
    if len(parts) == 1:
        return FACE
    here = SOURCE / parts[1]
    is_room = any(parts[1] in names for names in LAYERS) or here.is_dir() or here.with_suffix(".py").exists()
    return parts[1] if is_room else FACE


def violation(room: str, imported: str) -> str | None:
    """What is wrong with ``room`` importing ``imported``, or None."""
    level = {name: row for row, names in enumerate(LAYERS) for name in names}
    if room == "__init__":
        return None
    if room not in level:
        return f"{room} has no layer: add it to LAYERS"
    target = target_of(imported)
    if target == room or (room, target) in BESIDE:
        return None
    if target == FACE:
        return None if level[room] >= level["problems"] else f"{room} imports the public face, which lies above it"
    if room == "problems":
        return f"problems imports {imported}: it may use the public face only"
    if target not in level:
        return f"{target} has no layer: add it to LAYERS"
    if level[target] >= level[room]:
        return f"{room} imports {imported}, which is not below it"
    return None


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_downwards(path: Path) -> None:
    tree = ast.parse(path.read_text())
    found = [violation(room_of(path), name) for name in imports_of(tree, module_name(path), path.stem == "__init__")]
    assert [text for text in found if text] == []
    assert room_of(path) == "__init__" or any(room_of(path) in names for names in LAYERS)


@pytest.mark.parametrize(
    ("room", "imported", "wrong"),
    [
        ("estimators", "zograd._probes.Probes", False),
        ("estimators", "zograd.blackbox.BlackBox", True),
        ("estimators", "zograd.evaluate.Evaluator", True),
        ("estimators", "zograd", True),
        ("blackbox", "zograd.estimators.Estimate", True),
        ("evaluate", "zograd.blackbox.BlackBox", False),
        ("_probes", "zograd._parameters", True),
        ("strategies", "zograd.optim", False),
        ("optim", "zograd.strategies", True),
        ("problems", "zograd.minimize", False),
        ("problems", "zograd._probes.Probes", True),
        ("cli", "zograd.report", False),
        ("report", "zograd.cli", True),
        ("a_new_room", "zograd._errors", True),
    ],
)
def test_the_rule_itself(room: str, imported: str, wrong: bool) -> None:
    assert (violation(room, imported) is not None) == wrong


def test_relative_imports_are_resolved() -> None:
    tree = ast.parse("from .. import _probes\nfrom . import _a\nfrom ._b import c\nimport torch")
    assert list(imports_of(tree, "zograd.estimators._random", is_package=False)) == [
        "zograd._probes",
        "zograd.estimators._a",
        "zograd.estimators._b.c",
    ]


def classes() -> list[type]:
    """Every class that zograd defines."""
    found = []
    for path in FILES:
        if path.stem == "__main__":
            continue
        module = importlib.import_module(module_name(path))
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if cls.__module__ == module.__name__:
                found.append(cls)
    return found


def is_closed(cls: type) -> bool:
    """Whether a class is what every class is here: abstract or final."""
    if issubclass(cls, BaseException) or getattr(cls, "_is_protocol", False):
        return True
    return inspect.isabstract(cls) or "__final__" in vars(cls)


@pytest.mark.parametrize("cls", classes(), ids=lambda cls: f"{cls.__module__}.{cls.__qualname__}")
def test_classes_are_abstract_or_final(cls: type) -> None:
    assert is_closed(cls), "write @final above the class, or make it an ABC with abstract methods"
    assert not any("__final__" in vars(base) for base in cls.__mro__[1:]), "a final class has a subclass"


def test_an_open_class_would_be_seen() -> None:
    class Open:
        pass

    assert not is_closed(Open)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_assert_and_short(path: Path) -> None:
    text = path.read_text()
    lines = [node.lineno for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Assert)]
    assert lines == [], "an assert vanishes under python -O: use zograd._checks"
    assert len(text.splitlines()) <= LONGEST_FILE, "split the file"


def test_public_names_are_pinned() -> None:
    assert sorted(zograd.__all__) == PUBLIC
    assert list(zograd.__all__) == sorted(zograd.__all__)
    assert [name for name in PUBLIC if not hasattr(zograd, name)] == []


def packages() -> list[ModuleType]:
    """zograd and its packages: the modules that have public names."""
    return [importlib.import_module(module_name(path)) for path in FILES if path.stem == "__init__"]


@pytest.mark.parametrize("package", packages(), ids=lambda module: module.__name__)
def test_a_package_file_has_no_logic(package: ModuleType) -> None:
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.Expr)
    body = ast.parse(inspect.getsource(package)).body
    assert [type(node).__name__ for node in body if not isinstance(node, allowed)] == []
    assert package.__doc__
    assert len(set(package.__all__)) == len(package.__all__)
    assert [name for name in package.__all__ if not hasattr(package, name)] == []


@pytest.mark.parametrize("name", PUBLIC)
def test_public_objects_say_what_they_are(name: str) -> None:
    thing = getattr(zograd, name)
    assert isinstance(thing, ModuleType) or inspect.getdoc(thing), "a public name needs a docstring"
