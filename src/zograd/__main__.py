"""``python -m zograd`` is the command ``zograd``."""

from zograd.cli import main

main()
