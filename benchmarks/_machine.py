"""Names the machine and the packages that a figure comes from: no host name, no path."""

import os
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def processor() -> str:
    """The processor's model name, or its architecture where the system does not say."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine() -> str:
    """Processor, cores, system and Python in one line, as the `machine` column of every results file says it."""
    return f"{processor()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def package(name: str) -> str:
    """A package's name and version, as in ``scipy 1.17.1``."""
    return f"{name} {version(name)}"


def installed(methods: Mapping[str, tuple[Any, str]], names: Iterable[str]) -> list[str]:
    """Those of the named methods whose package is there; says which are not."""
    present = []
    for name in names:
        try:
            version(methods[name][1])
            present.append(name)
        except PackageNotFoundError:
            print(f"{name} is left out: {methods[name][1]} is not installed")
    return present
