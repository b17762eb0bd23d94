"""What a command is told: its parameters as JSON, as arguments, and in rendered template files."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
from torch import Tensor

from zograd._checks import require
from zograd._errors import ArgumentError

ARGUMENT = re.compile(r"\{([^{}\s]+)\}")
TEMPLATE = re.compile(r"\$\{([^{}\s]+)\}")


def plain(structure: Any) -> Any:
    """A structure of tensors, arrays and numbers as what JSON knows."""
    if isinstance(structure, Mapping):
        return {str(name): plain(value) for name, value in structure.items()}
    if isinstance(structure, Tensor):
        return structure.tolist()
    if isinstance(structure, np.ndarray | np.generic):
        return structure.tolist()
    if isinstance(structure, list | tuple):
        return [plain(value) for value in structure]
    return structure


def named(told: Any) -> dict[str, Any]:
    """Each number of a plain structure by its name, such as ``lens.radius[3]``; ``x`` where it has none."""
    return dict(_named(told, ""))


def _named(told: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(told, dict):
        for name, value in told.items():
            yield from _named(value, f"{prefix}.{name}" if prefix else name)
    elif isinstance(told, list):
        for index, value in enumerate(told):
            yield from _named(value, f"{prefix or 'x'}[{index}]")
    else:
        yield prefix or "x", told


@final
class Inputs:
    """How a command is told its parameters.

    Args:
        command: Its words, with ``{name}`` where a parameter goes.
        templates: Files with ``${name}`` where a parameter goes.
        stdin: Whether it reads JSON; ``None`` where neither the words nor a template names a parameter.
        result: The name of the file that it writes.
    """

    def __init__(
        self, command: Sequence[str], templates: Sequence[str | Path], stdin: bool | None, result: str | None
    ) -> None:
        hint = 'A list of words, such as ["./solver", "--width", "{width}"]: no shell ever sees it.'
        listed = isinstance(command, Sequence) and not isinstance(command, str | bytes) and len(command) > 0
        require(listed and all(isinstance(word, str | Path) for word in command), "command", "be words", command, hint)
        listed = isinstance(templates, Sequence) and not isinstance(templates, str | bytes)
        require(listed, "templates", "be a list of files", templates)
        self.templates = {Path(path).name: _text(Path(path)) for path in templates}
        require(len(self.templates) == len(templates), "templates", "have different names", templates)
        made = {*self.templates, result}
        self.command = [_absolute(str(word), place, made) for place, word in enumerate(command)]
        self._in_words = {name for word in self.command for name in ARGUMENT.findall(word)}
        self._in_templates = {name for text in self.templates.values() for name in TEMPLATE.findall(text)}
        self._stdin = stdin

    def words(self, told: Any, scratch: Path, seed: int) -> list[str]:
        """The command with its parameters put in, each word as a whole; braces around anything else stay.

        Raises:
            ArgumentError: When a parameter is used nowhere.
        """
        values = named(told)
        if not self._reads(values):
            unused = [name for name in values if name not in self._in_words | self._in_templates]
            if unused:
                raise ArgumentError(
                    f"every parameter must be told to the command, found nothing that uses {', '.join(unused[:5])}. "
                    f"Write {{{unused[0]}}} into a word of it, ${{{unused[0]}}} into a template, or pass stdin=True.",
                    argument="command",
                    found=self.command,
                )
        return [_filled(ARGUMENT, word, values, scratch, seed) for word in self.command]

    def refuse_words(self, told: Any) -> None:
        """See that no parameter is in the words, which are read once.

        Raises:
            ArgumentError: When one is.
        """
        used = sorted(self._in_words & set(named(told)))
        hint = "A persistent program is told its parameters on stdin or in templates."
        require(not used, "command", "take no parameters in its words if it is persistent", used, hint)

    def render(self, told: Any, scratch: Path, seed: int) -> None:
        """Write each template into the scratch directory; a name that is no parameter's stays as it is."""
        values = named(told)
        for name, text in self.templates.items():
            (scratch / name).write_text(_filled(TEMPLATE, text, values, scratch, seed))

    def sent(self, told: Any) -> bytes:
        """What it reads: one line of JSON, or nothing."""
        return encoded(told) if self._reads(named(told)) else b""

    def _reads(self, values: Mapping[str, Any]) -> bool:
        if self._stdin is not None:
            return self._stdin
        return not (self._in_words | self._in_templates) & set(values)


def encoded(told: Any) -> bytes:
    """One line of JSON."""
    return json.dumps(told, allow_nan=False, default=str).encode() + b"\n"


def _filled(pattern: re.Pattern[str], text: str, values: Mapping[str, Any], scratch: Path, seed: int) -> str:
    known = {"scratch": scratch, "seed": seed, **values}
    return pattern.sub(lambda found: str(known.get(found[1], found[0])), text)


def _absolute(word: str, place: int, made: set[str | None]) -> str:
    """A word that names a file here is that file, wherever the command runs; the program is looked up as ever."""
    path = Path(word)
    if word in made or path.is_absolute() or (place == 0 and path.parent == Path() and "/" not in word):
        return word
    try:
        return str(path.absolute()) if path.is_file() else word
    except (OSError, ValueError):  # no file has such a name
        return word


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(
            f"`templates` must be text files, found {str(path)!r}: {error}.", argument="templates", found=path
        ) from error
