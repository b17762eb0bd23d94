"""One page that holds everything: pictures, curves, numbers, settings, and how to repeat the run."""

import base64
import mimetypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from zograd._checks import require
from zograd.report._extras import module

MARK = '<meta name="generator" content="zograd">'


@final
@dataclass(frozen=True, slots=True)
class Section:
    """One part of the page.

    Args:
        title: Its heading.
        text: A paragraph below it.
        pictures: Picture files by caption; they become part of the page.
        table: Rows of a name and what it is.
        code: Commands to type, shown as they are.
    """

    title: str
    text: str = ""
    pictures: Mapping[str, Path] = field(default_factory=dict)
    table: Mapping[str, str] = field(default_factory=dict)
    code: str = ""


def write_html(
    path: str | Path,
    title: str,
    sections: Sequence[Section],
    *,
    subtitle: str = "",
    numbers: Mapping[str, str] | None = None,
) -> Path:
    """Write one self-contained page: pictures are inside it, nothing is loaded from anywhere, all text is escaped.

    Args:
        path: Where to; an existing file is replaced.
        title: Its heading.
        sections: Its parts, in order.
        subtitle: A sentence below the heading.
        numbers: The few numbers that matter, by name, shown large.

    Returns:
        The path.

    Raises:
        ArgumentError: When a picture is missing.
        MissingExtraError: When jinja2 is not installed.

    Example:
        >>> import tempfile, zograd as zo, zograd.report
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     section = zo.report.Section("Settings", table={"seed": "0", "shell": "a < b"})
        ...     "a &lt; b" in zo.report.write_html(folder + "/page.html", "A run", [section]).read_text()
        True
    """
    jinja2 = module("jinja2", "jinja2")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("zograd.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("page.html").render(
        title=title, subtitle=subtitle, numbers=numbers or {}, sections=sections, inlined=_inlined
    )
    Path(path).write_text(page, encoding="utf-8")
    return Path(path)


def _inlined(picture: Path) -> str:
    """A picture file as a data URI."""
    require(Path(picture).is_file(), "pictures", "name files that are there", str(picture))
    kind = mimetypes.guess_type(str(picture))[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(Path(picture).read_bytes()).decode()}"
