"""`reprobox export`: a run's environment in the formats of other tools, a subcommand a format."""

from __future__ import annotations

import click

from reprobox.cli.export_apptainer import apptainer


@click.group("export")
def command() -> None:
    """Write a run's environment in other tools' formats.

    RUN is a run's folder or a manifest.yaml.
    """


command.add_command(apptainer)
