"""`reprobox export`: a run's environment in the formats of other tools, a subcommand a format."""

from __future__ import annotations

import click


@click.group("export")
def command() -> None:
    """Write a run's environment in other tools' formats."""
