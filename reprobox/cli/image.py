"""`reprobox image`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from reprobox.cli.options import json_option, overrides, project_option, spec_options


@click.group("image")
def command() -> None:
    """Build the image alone."""


@command.command("build")
@spec_options
@project_option
@json_option
def build(spec_file: Path | None, project: Path, as_json: bool, **flags: Any) -> int:
    """Assemble the project's image and load it into the engine.

    The image is the same wherever and whenever it is built from the same lock and base.
    """
    import time

    from reprobox.cache import cache_root
    from reprobox.cli.console import Console
    from reprobox.spec import load_spec
    from reprobox.workflow.image import build_image

    console = Console(as_json=as_json)
    asked = overrides(flags)
    spec = load_spec(project, file=spec_file, overrides=asked, need_command=False)
    started = time.monotonic()
    built = build_image(spec, project, cache=cache_root(), observer=console)
    image = built.image
    assert image is not None
    seconds = time.monotonic() - started
    console.field("id", built.handle)
    console.field("digests", f"config {image.config_digest}")
    console.field("", f"manifest {image.manifest_digest}")
    console.field("layers", f"{len(image.diff_ids)}, in {seconds:.1f} s")
    console.result(
        {
            "image_id": built.handle,
            "config_digest": image.config_digest,
            "manifest_digest": image.manifest_digest,
            "diff_ids": list(image.diff_ids),
            "seconds": round(seconds, 3),
        }
    )
    return 0
