"""``zograd demo``: watch a problem without a gradient being solved."""

import click

from zograd.cli._demonstration import demonstrate
from zograd.cli._options import options_of
from zograd.problems import ALL


@click.group(invoke_without_command=True)
@click.pass_context
def demo(context: click.Context) -> int:
    """Solve a ready-made problem, with live progress, and write a report.

    Without a name it is the picture. `zograd demo list` shows the others, and `zograd demo picture --help` the options.
    """
    if context.invoked_subcommand is None:
        return int(context.invoke(demo.commands["picture"]))
    return 0


@demo.command(name="list")
def show() -> None:
    """Show the problems that there are."""
    width = max(len(make.__name__) for make in ALL)
    for make in ALL:
        click.echo(f"{make.__name__:<{width}}  {summary_of(make)}")


def summary_of(make: object) -> str:
    """The first line of a docstring, without its full stop."""
    return (make.__doc__ or "").strip().splitlines()[0].rstrip(".")


for make in ALL:
    said = summary_of(make) + "."
    command = click.Command(
        make.__name__, callback=demonstrate(make), params=options_of(make), help=said, short_help=said
    )
    demo.add_command(command)
