"""The command ``zograd``: its commands are listed here and written one a file."""

import click

import zograd
from zograd.cli.demo import demo


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(zograd.__version__, message="zograd %(version)s")
def app() -> None:
    """Gradients for programs that have none."""


app.add_command(demo)
