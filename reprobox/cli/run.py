"""`reprobox run`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from reprobox.cli.options import (
    engine_option,
    json_option,
    keep_running_option,
    overrides,
    project_option,
    spec_options,
)


@click.command("run", context_settings={"allow_interspersed_args": False})
@spec_options
@engine_option
@project_option
@click.option("--relock", is_flag=True, help="Resolve the requirements anew, whatever lock there is.")
@click.option("--from-env", is_flag=True, help="Take the packages of the active environment, exactly as installed.")
@keep_running_option
@json_option
@click.argument("command_line", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
def command(
    spec_file: Path | None,
    engine: str | None,
    project: Path,
    as_json: bool,
    relock: bool,
    from_env: bool,
    keep_running: bool,
    command_line: tuple[str, ...],
    **flags: Any,
) -> int:
    """Train in a pinned environment and write a manifest.

    COMMAND is what you would type without reprobox, for instance `-- python train.py --epochs 2`. Without it the
    command of reprobox.yaml is run.
    """
    from reprobox.cache import cache_root
    from reprobox.cli.console import Console
    from reprobox.cli.summary import run_exit, run_result, summarise_run
    from reprobox.cli.terminate import terminate_like_interrupt
    from reprobox.spec import load_spec
    from reprobox.workflow.run import run

    if from_env and relock:
        raise click.UsageError("--from-env takes what is installed; --relock has nothing to resolve")
    console = Console(as_json=as_json)
    asked = overrides(flags)
    if command_line:
        asked["command"] = list(command_line)
    spec = load_spec(project, file=spec_file, overrides=asked)
    with terminate_like_interrupt():
        report = run(
            spec,
            project,
            engine=engine,
            cache=cache_root(),
            observer=console,
            relock=relock,
            from_env=from_env,
            keep_running=keep_running,
        )
    summarise_run(report, console)
    console.result(run_result(report))
    return run_exit(report)
