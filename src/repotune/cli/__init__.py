"""The command line: one short file a command. Parse, call one function of pipeline, show."""

from repotune.cli.app import main

__all__ = ["main"]
