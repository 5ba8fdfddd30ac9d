"""`reprobox push`."""

from __future__ import annotations

from pathlib import Path

import click

from reprobox.cli.options import insecure_option, json_option


@click.command("push")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("reference")
@insecure_option
@json_option
def command(run: Path, reference: str, insecure: bool, as_json: bool) -> int:
    """Send a run's image to a registry, with the manifest attached to it.

    RUN is a run's folder or its manifest.yaml, REFERENCE a place in any OCI registry, such as ghcr.io/me/paper:v1.
    Credentials are those of `docker login`. What the registry has is not sent again.
    """
    import time
    from dataclasses import asdict

    from reprobox.bundle.reader import is_bundle
    from reprobox.cache import cache_root
    from reprobox.cli.console import Console
    from reprobox.cli.terminate import terminate_like_interrupt
    from reprobox.errors import UsageError
    from reprobox.workflow.paths import find_manifest
    from reprobox.workflow.push import push

    console = Console(as_json=as_json)
    started = time.monotonic()
    if is_bundle(run):
        raise UsageError(
            f"{run} is a bundle, which cannot be pushed", hint="name the run's folder: reprobox push RUN REF"
        )
    with terminate_like_interrupt():
        report = push(find_manifest(run), reference, insecure=insecure, cache=cache_root(), observer=console)
    seconds = time.monotonic() - started
    layers = report.layers
    parts = [f"{layers.sent} sent ({layers.sent_bytes / 1e6:.0f} MB)", f"{layers.there} there already"]
    if layers.mounted:
        parts.append(f"{layers.mounted} taken from another repository there")
    console.field("layers", ", ".join(parts))
    console.field("image", report.image)
    console.field("run", f"{report.run}   ({seconds:.1f} s)")
    console.line()
    console.line(f"Replay it anywhere:  reprobox replay {report.run}")
    console.result(
        {
            "reference": str(report.reference),
            "image": report.image,
            "run": report.run,
            "layers": asdict(layers),
            "seconds": round(seconds, 3),
        }
    )
    return 0
