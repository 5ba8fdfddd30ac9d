"""`reprobox export`: a run's environment in the formats of other tools, a subcommand a format."""

from __future__ import annotations

from pathlib import Path

import click

from reprobox.cli.export_apptainer import apptainer
from reprobox.cli.options import json_option

_run = click.argument("run", type=click.Path(path_type=Path))
_output = click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="File to write. Default: standard output."
)
_force = click.option("--force", is_flag=True, help="Replace the file if it is there.")


@click.group("export")
def command() -> None:
    """Write a run's environment in other tools' formats.

    RUN is a run's folder or a manifest.yaml.
    """


command.add_command(apptainer)


@command.command("requirements")
@_run
@_output
@_force
@json_option
def requirements(run: Path, output: Path | None, force: bool, as_json: bool) -> int:
    """Requirements with hashes, for `pip install --require-hashes -r`."""
    return _export(run, "requirements", output, force, as_json)


@command.command("pylock")
@_run
@_output
@_force
@click.option("--wheels", is_flag=True, help="Put every wheel into the folder wheels beside the file, too.")
@json_option
def pylock(run: Path, output: Path | None, force: bool, wheels: bool, as_json: bool) -> int:
    """A pylock.toml (PEP 751), which expects its wheels in the folder wheels beside it."""
    return _export(run, "pylock", output, force, as_json, wheels=wheels)


@command.command("dockerfile")
@_run
@_output
@_force
@json_option
def dockerfile(run: Path, output: Path | None, force: bool, as_json: bool) -> int:
    """A Dockerfile with all that `docker build` needs for an image with the same packages."""
    return _export(run, "dockerfile", output, force, as_json)


def _export(run: Path, form: str, output: Path | None, force: bool, as_json: bool, *, wheels: bool = False) -> int:
    from reprobox.cache import cache_root
    from reprobox.cli.console import Console
    from reprobox.workflow.export import export_run, write_export

    if wheels and output is None:
        raise click.UsageError("--wheels puts them beside a file: name it with -o")
    console = Console(as_json=as_json)
    export = export_run(run, form)
    result = {"format": form, "packages": export.packages}
    if output is None:
        console.document(export.text)
        console.result({**result, "path": None, "text": export.text})
        return 0
    written = write_export(export, output, wheels=wheels, force=force, cache=cache_root(), observer=console)
    console.field("wrote", str(output) + (f", and {len(written) - 1} wheels" if wheels else ""))
    console.result({**result, "path": str(output)})
    return 0
