"""`reprobox recover`."""

from __future__ import annotations

from pathlib import Path

import click

from reprobox.cli.options import json_option


@click.command("recover")
@click.argument("run", type=click.Path(path_type=Path))
@json_option
def command(run: Path, as_json: bool) -> int:
    """Make the manifest of RUN, whose reprobox was killed, of what it recorded up to there.

    RUN is a run's folder without a manifest.yaml. No loss that was recorded is lost: the container of a reprobox that
    died ends after a minute, or at its own end where the run was started with --keep-running.
    """
    from reprobox.cli.console import Console
    from reprobox.cli.summary import run_result, summarise_run
    from reprobox.workflow.recover import recover

    console = Console(as_json=as_json)
    report = recover(run, console)
    summarise_run(report, console)
    console.result(run_result(report))
    return 0
