"""`reprobox doctor`."""

from __future__ import annotations

from pathlib import Path

import click

from reprobox.cli.options import json_option

_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


@click.command("doctor")
@json_option
def command(as_json: bool) -> int:
    """Look at what works on this machine: engine, GPU, tools, disk, and what to do about what does not."""
    from dataclasses import asdict

    from reprobox.cache import cache_root
    from reprobox.cli.console import Console
    from reprobox.errors import EXIT_ENGINE, EXIT_OK
    from reprobox.workflow.doctor import diagnose

    console = Console(as_json=as_json)
    checks = diagnose(Path.cwd(), cache=cache_root())
    width = max(len(check.name) for check in checks)
    for check in checks:
        status = click.style(f"{check.status:<7}", fg=_COLOURS[check.status])
        console.line(f"{status}  {check.name:<{width}}  {check.text}")
        if check.hint and check.status != "ok":
            console.line(" " * (width + 11) + check.hint)
    failed = any(check.status == "error" for check in checks)
    console.result({"ok": not failed, "checks": [asdict(check) for check in checks]})
    return EXIT_ENGINE if failed else EXIT_OK
