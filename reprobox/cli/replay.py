"""`reprobox replay`."""

from __future__ import annotations

import contextlib
import shlex
import sys
from pathlib import Path

import click

from reprobox.cli.options import engine_names, insecure_option, json_option, keep_running_option
from reprobox.cli.tolerance import tolerance_from, tolerance_options


@click.command("replay")
@click.argument("manifest")
@click.option(
    "--code", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Run this folder's code instead."
)
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder in which the data paths are. Default: here, or the manifest's project.",
)
@click.option("--fail-fast", is_flag=True, help="Stop at the first difference.")
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="Stop and judge after N optimizer steps.")
@tolerance_options
@click.option(
    "--engine",
    type=engine_names,
    help="Where to train. Default: docker. `local` runs the manifest's program on this machine, unconfined.",
)
@keep_running_option
@insecure_option
@json_option
def command(
    manifest: str,
    code: Path | None,
    data: Path | None,
    fail_fast: bool,
    steps: int | None,
    relative: float,
    absolute: float,
    engine: str | None,
    keep_running: bool,
    insecure: bool,
    as_json: bool,
) -> int:
    """Rebuild what MANIFEST describes, train again, and judge.

    MANIFEST is a manifest.yaml or a run's folder. Nothing else is needed: lock, image and code are made again from it.
    It may also be a bundle that `reprobox pack` made, from which a replay needs no network, or what `reprobox push`
    printed, oci://HOST/NAME@sha256:...: manifest and image are fetched from there.
    The outcome is written to replays/ as receipt.yaml. Exit code 0: reproduced, 1: diverged, 5: incomparable.
    """
    from reprobox.cache import cache_root
    from reprobox.cli.console import Console
    from reprobox.cli.summary import replay_exit, replay_result, summarise_replay
    from reprobox.cli.terminate import terminate_like_interrupt
    from reprobox.errors import ConsentError
    from reprobox.workflow.paths import find_manifest
    from reprobox.workflow.replay import ReplayRequest, replay

    console = Console(as_json=as_json)
    cache = cache_root()
    with contextlib.ExitStack() as stack:
        stack.enter_context(terminate_like_interrupt())
        fetched = None
        if manifest.startswith("oci://"):
            from reprobox.workflow.fetch import fetched_run

            fetched = stack.enter_context(fetched_run(manifest, insecure=insecure, cache=cache, observer=console))
        request = ReplayRequest(
            manifest=fetched.manifest if fetched else find_manifest(Path(manifest)),
            parent=Path.cwd(),
            engine=engine,
            code=code,
            data=data,
            tolerance=tolerance_from(relative, absolute),
            fail_fast=fail_fast,
            steps=steps,
            image=fetched.image if fetched else None,
            keep_running=keep_running,
        )
        try:
            report = replay(request, cache=cache, observer=console)
        except ConsentError as error:
            error.hint = f"if you trust the manifest:  {_typed_with('--engine', 'local')}"
            raise
    summarise_replay(report, console)
    console.result(replay_result(report))
    return replay_exit(report)


def _typed_with(*options: str) -> str:
    """Return the command line that this process was started with, with more options, as a shell takes it."""
    words = sys.argv[1:]
    # What stands behind `--` is no option any more.
    place = words.index("--") if "--" in words else len(words)
    return shlex.join(["reprobox", *words[:place], *options, *words[place:]])
