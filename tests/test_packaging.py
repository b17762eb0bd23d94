"""What a clean clone installs is pinned, and CI types what a person types."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import zograd

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pinned() -> dict[str, str]:
    """The packages of constraints.txt and their versions."""
    lines = [line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line]
    return {canonicalize_name(name): version for name, version in lines}


def wanted(requirement: Requirement, extra: str) -> bool:
    """Whether a requirement holds here."""
    return requirement.marker is None or requirement.marker.evaluate({**default_environment(), "extra": extra})


def is_for_gpus(requirement: Requirement) -> bool:
    """Whether it is one of the GPU packages that torch's builds for some platforms bring, and pin themselves."""
    return re.match("nvidia|cuda|triton", canonicalize_name(requirement.name)) is not None


def needed() -> set[str]:
    """Everything that the package and its extras bring, followed through what is installed."""
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    waiting = [(Requirement(text), "") for group in groups for text in group]
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement, extra = waiting.pop()
        if not wanted(requirement, extra) or is_for_gpus(requirement):
            continue
        name = canonicalize_name(requirement.name)
        for within in ["", *requirement.extras]:
            if (name, within) in seen or name == "zograd":
                continue
            seen.add((name, within))
            try:
                waiting += [(Requirement(text), within) for text in requires(name) or []]
            except PackageNotFoundError:  # an extra that is not installed here
                continue
    return {name for name, _ in seen}


def test_every_package_is_pinned() -> None:
    assert sorted(needed() - set(pinned())) == []


def test_pins_are_plain_versions_for_every_platform() -> None:
    wrong = {name: version for name, version in pinned().items() if not re.fullmatch(r"[0-9][0-9A-Za-z.]*", version)}
    assert wrong == {}


def test_versions_agree() -> None:
    assert PROJECT["version"] == zograd.__version__
    assert f"version: {zograd.__version__}" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{zograd.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_ci_calls_make_and_nothing_else() -> None:
    lines = [line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    commands = [line for line in lines if line and not line.startswith(("#", "set ", "cd ", "export ", "exec <"))]
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert commands
    for command in commands:
        words = command.split()
        assert words[0] == "make", command
        assert {word for word in words[1:] if word.isalpha()} <= targets, command
