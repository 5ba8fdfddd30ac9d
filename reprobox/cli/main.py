"""The `reprobox` command: finds the subcommand, runs it, and turns errors into words and exit codes."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

import reprobox
from reprobox.errors import EXIT_BUG, EXIT_INTERRUPTED, EXIT_USAGE, ReproboxError

# Each command lives in its own file, imported when it is asked for, so that `--help` starts without any of them.
COMMANDS = {
    "init": "Make a starter project from a template.",
    "run": "Train in a pinned environment and write a manifest.",
    "show": "Show a run's manifest for a person.",
    "list": "List the runs and replays of a project.",
    "recover": "Make the manifest of a run whose reprobox was killed.",
    "replay": "Rebuild what a manifest describes, train again, and judge.",
    "push": "Send a run's image to a registry, its manifest attached.",
    "compare": "Compare two runs and name the first differing step.",
    "pack": "Put a run and all that its replay needs into one file.",
    "doctor": "Look at what works on this machine.",
    "image": "Build the image alone.",
    "lock": "Write the project's lock, and show what changed.",
    "export": "Write a run's environment in other tools' formats.",
    "cache": "Look at and clean what is kept between runs.",
}


class _LazyGroup(click.Group):
    """A group that imports a command's file only when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"reprobox.cli.{cmd_name}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            # Not of the screen, which is never broken (see `screen`). click would exit with 1, which here is a verdict.
            raise RuntimeError("a connection broke, and nothing that uses it said so") from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done or reproduced, 1 diverged, 2 bad input, 3 engine, lock, image or registry failed, "
    "4 the training failed, 5 incomparable, 70 a bug in reprobox, 130 interrupted.",
)
@click.version_option(reprobox.__version__, prog_name="reprobox")
def cli() -> None:
    """Run a PyTorch training so that anybody can repeat it, bit for bit."""


def main() -> None:
    """Run the command line and exit with the code that says how it went."""
    from reprobox.cli.console import report_bug, report_error, report_traceback, report_usage
    from reprobox.cli.screen import guard_screens

    guard_screens()
    # Behind `--` stands the user's own command, whose flags are none of ours.
    ours = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    as_json = "--json" in ours
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(EXIT_INTERRUPTED)
    except click.ClickException as error:
        error.show()
        report_usage(error.format_message(), as_json=as_json)
        sys.exit(EXIT_USAGE)
    except ReproboxError as error:
        if error.exit_code == EXIT_BUG:
            report_traceback(error)
        report_error(error, as_json=as_json)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        report_bug(error, as_json=as_json)
        sys.exit(EXIT_BUG)
    sys.exit(code if isinstance(code, int) else 0)
