"""`reprobox compare`."""

from __future__ import annotations

from pathlib import Path

import click

from reprobox.cli.options import json_option
from reprobox.cli.tolerance import tolerance_from, tolerance_options


@click.command("compare")
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@tolerance_options
@json_option
def command(first: Path, second: Path, relative: float, absolute: float, as_json: bool) -> int:
    """Compare two runs and name the first differing step.

    FIRST and SECOND are run folders, manifests or bundles; the first is taken as the recorded one. SECOND may also be
    the folder of an `export apptainer` that was trained in. Exit code 0: the same, 1: diverged, 5: incomparable.
    """
    from reprobox.cli.console import Console
    from reprobox.cli.summary import VERDICT_EXIT, divergence_data, show_verdict
    from reprobox.workflow.compare import compare_runs
    from reprobox.workflow.compare_record import compare_record, holds_record

    console = Console(as_json=as_json)
    compare = compare_record if holds_record(second) else compare_runs
    found = compare(first, second, tolerance=tolerance_from(relative, absolute))
    verdict = found.verdict
    if found.note:
        console.field("note", found.note)
    for difference in found.differences:
        console.field("differs", f"{difference['what']}  {difference['recorded']} -> {difference['here']}")
    show_verdict(verdict, found.steps_recorded, console)
    console.result(
        {
            "verdict": verdict.outcome.value,
            "reason": verdict.reason,
            "notes": list(verdict.notes),
            "steps_compared": verdict.steps_compared,
            "first_divergence": divergence_data(verdict.first_divergence),
            "differences": found.differences,
            "receipt": None,
        }
    )
    return VERDICT_EXIT[verdict.outcome]
