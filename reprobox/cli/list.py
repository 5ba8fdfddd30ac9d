"""`reprobox list`."""

from __future__ import annotations

from pathlib import Path

import click

from reprobox.cli.options import json_option


@click.command("list")
@click.argument("project", type=click.Path(exists=True, file_okay=False, path_type=Path), default=".")
@json_option
def command(project: Path, as_json: bool) -> int:
    """List the runs and replays of PROJECT (default: here), oldest first: what became of each, and where it ended."""
    from reprobox.cli.console import Console
    from reprobox.workflow.list import list_runs

    console = Console(as_json=as_json)
    found = list_runs(project)
    if not found:
        console.line("no runs here; `reprobox run -- python train.py` makes the first one")
    width = max((len(one.id) for one in found), default=0)
    for one in found:
        metrics = "  ".join(f"{name} {value}" for name, value in one.metrics.items())
        loss = "" if one.final_loss is None else f"loss {one.final_loss}"
        line = f"{one.id:{width}}  {one.state:12} {one.started[:16]:16}  {one.steps:>9}  {loss:16} {metrics}"
        console.line(line.rstrip())
        if one.note:
            console.line(f"{'':{width}}  {one.note}")
    console.result({"runs": [one.as_data() for one in found]})
    return 0
