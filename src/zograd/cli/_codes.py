"""The exit codes that more than one file needs to know."""

INTERRUPTED = 130
"""After Ctrl-C, as shells have it: 128 and the number of SIGINT."""
