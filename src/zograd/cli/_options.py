"""Options of the command line from the arguments of a function, so that each is described in one place."""

import inspect
import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import click

from zograd.problems import Problem

ARGUMENT = re.compile(r"^ {4,8}(\w+): (.+(?:\n {8,}\S.*)*)", re.MULTILINE)


def options_of(make: Callable[..., Problem]) -> list[click.Parameter]:
    """The options of a problem: its own arguments, then those that every demonstration has."""
    described = descriptions(make.__doc__ or "")
    hints = get_type_hints(make)
    options: list[click.Parameter] = []
    for name, parameter in inspect.signature(make).parameters.items():
        if name != "seed":
            kind = _type_of(hints[name])
            default = parameter.default
            options.append(
                click.Option(
                    [f"--{name}"], type=kind, default=default, show_default=default is not None, help=described[name]
                )
            )
    return [
        *options,
        click.Option(
            ["--evaluations"], type=int, help="How often the program may be run.  [default: as the problem needs]"
        ),
        click.Option(
            ["--by"],
            type=click.Choice(["loss", "outputs"]),
            default="loss",
            show_default=True,
            help="What is modelled: the loss, or every output, where there are several.",
        ),
        click.Option(["--seed"], type=int, default=0, show_default=True, help="Same seed, same run."),
        click.Option(
            ["--out"],
            type=click.Path(path_type=Path),
            help=f"The folder for the report.  [default: demo-{make.__name__}]",
        ),
    ]


def descriptions(docstring: str) -> dict[str, str]:
    """What a Google-style docstring says of each argument, each in one line."""
    section = inspect.cleandoc(docstring).partition("Args:\n")[2].partition("\n\n")[0]
    return {name: " ".join(text.split()) for name, text in ARGUMENT.findall(section)}


def _type_of(hint: Any) -> Any:
    """Click's type for an annotation; ``X | None`` is an option that may be left out."""
    if isinstance(hint, types.UnionType):
        hint = next(one for one in get_args(hint) if one is not type(None))
    return click.Path(path_type=Path) if hint is Path else hint
