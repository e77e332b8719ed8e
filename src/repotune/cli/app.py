"""The entry point: finds the command without importing the others, and turns errors into words."""

from __future__ import annotations

import errno
import importlib
import io
import json
import sys
from collections.abc import Sequence

import click

from repotune.errors import RepotuneError

COMMANDS = {
    "tune": "Tune a model on the code in a folder, or go on with a run.",
    "evaluate": "Compare base and tuned on a run's held-out files.",
    "report": "Write a run's report as one HTML file.",
    "complete": "Complete the code at one cursor, base against tuned.",
    "verify": "Check a run's files, and that its adapter does what it did.",
    "export": "Write the tuned model for another program, and prove it there.",
    "serve": "Serve the tuned model to editors on this computer.",
    "runs": "List the runs in a folder.",
    "plan": "Say what a run would need, take and cost.",
    "requirements": "Write the page of requirements: GPUs, memory, time, cloud.",
    "doctor": "Say whether this machine is fit for it, and what to mend.",
    "calibrate": "Measure how fast this machine is, for better plans.",
}
"""Name -> help line, so that ``--help`` imports no command. Each lies in the module of its name."""


class LazyGroup(click.Group):
    """Imports a command's module when the command is named, because `--help` must be quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order in which they are used."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command in the module ``repotune.cli.<name>``, or None."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"repotune.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands in `--help`."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _print_version(ctx: click.Context, _option: click.Parameter, asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        click.echo(f"repotune {version('repotune')}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
    help="Show the version and exit.",
)  # fmt: skip
def repotune() -> None:
    """Tune a code model on your own repository, with proof on held-out code.

    Every command takes --json: one JSON object on stdout, progress on stderr. The exit code
    is 0, or 1 if the work failed, or 2 for wrong use.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; ``arguments`` default to the process's."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A console of another code page (cp949) shows ? for what it lacks, and goes on.
            stream.reconfigure(errors="replace")
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code = repotune.main(given, prog_name="repotune", standalone_mode=False)
    except click.Abort:
        return _fail("stopped by Ctrl-C.", "Interrupted", 1, given)
    except click.ClickException as error:
        return _fail(_usage(error), "UsageError", 2, given)
    except RepotuneError as error:
        return _fail(str(error), type(error).__name__, error.exit_code, given)
    except OSError as error:
        return _fail(_refusal(error), "OSError", 1, given)
    return int(code or 0)


def _usage(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context else "repotune"
    return f"{error.format_message()} See `{path} --help`."


def _refusal(error: OSError) -> str:
    """What the operating system refused; rooms that know more raise a RepotuneError instead."""
    if error.errno == errno.ENOSPC:
        return "The disk is full: free some space, then go on with `repotune tune --resume RUN`."
    return f"{error.filename or 'The operating system'}: {error.strerror or error}."


def _fail(message: str, kind: str, exit_code: int, arguments: Sequence[str]) -> int:
    click.echo(f"error: {message}", err=True)
    if "--json" in arguments:
        click.echo(json.dumps({"error": message, "kind": kind}))
    return exit_code
