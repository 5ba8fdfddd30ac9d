"""`reprobox init`."""

from __future__ import annotations

from pathlib import Path

import click

from reprobox.cli.options import json_option


@click.command("init")
@click.argument("template")
@click.argument("target", type=click.Path(path_type=Path))
@json_option
def command(template: str, target: Path, as_json: bool) -> int:
    """Make a starter project: TEMPLATE is `vision` or `language-model`, TARGET the folder to make."""
    from reprobox.cli.console import Console
    from reprobox.workflow.init import init

    console = Console(as_json=as_json)
    files = init(template, target)
    console.field("made", f"{target}: {', '.join(str(file) for file in files)}")
    console.field("next", f"cd {target} && reprobox run -- python train.py")
    console.result({"project": str(target), "files": [str(file) for file in files]})
    return 0
