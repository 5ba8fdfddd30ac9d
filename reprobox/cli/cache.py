"""`reprobox cache`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from reprobox.cli.options import json_option

if TYPE_CHECKING:
    from reprobox.workflow.cache import Item

_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def _seconds(_context: click.Context, _option: click.Parameter, value: str | None) -> float | None:
    """Turn an age such as `30d` into seconds."""
    match = re.fullmatch(r"(\d{1,6})([mhdw])", value or "")
    if match is None and value is not None:
        raise click.BadParameter(f"{value!r} is not an age: expected a number and m, h, d or w, such as 30d")
    return float(int(match[1]) * _UNITS[match[2]]) if match else None


@click.group("cache")
def command() -> None:
    """Look at and clean what is kept between runs: bases, layers, wheels, virtual environments, unpacked bundles.

    All of it can be made or fetched again. It lies in REPROBOX_CACHE, else in `reprobox` under XDG_CACHE_HOME or
    ~/.cache.
    """


@command.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Show everything that is kept: what, how large, when last used."""
    import time

    from reprobox.cache import cache_root
    from reprobox.cli.console import Console
    from reprobox.workflow.cache import inventory

    console = Console(as_json=as_json)
    items = inventory(cache_root())
    for item in items:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(item.last_used))
        console.line(f"{item.kind:<8}  {_text(item.size):>9}  {used}  {item.name}")
    console.line(_sum(items))
    console.result(_data(items))


@command.command("size")
@json_option
def size(as_json: bool) -> None:
    """Show how much is kept, by kind."""
    from reprobox.cache import cache_root
    from reprobox.cli.console import Console
    from reprobox.workflow.cache import KINDS, inventory

    console = Console(as_json=as_json)
    root = cache_root()
    items = inventory(root)
    kinds = {}
    for kind in KINDS:
        of_kind = [item for item in items if item.kind == kind]
        kinds[kind] = {"count": len(of_kind), "size": sum(item.size for item in of_kind)}
        console.line(f"{kind:<8}  {_text(kinds[kind]['size']):>9}  {kinds[kind]['count']}")
    console.line(f"{_sum(items)} in {root}")
    console.result({"cache": str(root), "size": sum(item.size for item in items), "kinds": kinds})


@command.command("prune")
@click.option("--unused", is_flag=True, help="What no remembered lock or image needs.")
@click.option(
    "--older-than", callback=_seconds, metavar="AGE", help="What was not used for that long, such as 30d or 12h."
)
@click.option("--all", "everything", is_flag=True, help="Everything.")
@click.option("--dry-run", is_flag=True, help="Show what would go, and remove nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@json_option
def prune(
    unused: bool, older_than: float | None, everything: bool, dry_run: bool, yes: bool, as_json: bool
) -> int | None:
    """Remove what is not needed, and what processes that were killed left behind.

    With both --unused and --older-than, what is either. What a running program uses stays. Images that Docker holds are
    Docker's: `docker image ls reprobox/*` shows them.
    """
    import sys
    import time

    from reprobox.cache import cache_root
    from reprobox.cli.console import Console
    from reprobox.errors import EXIT_OK, UsageError
    from reprobox.workflow import cache as store

    if not (unused or older_than is not None or everything):
        raise UsageError(
            "nothing says what to remove", hint="say --unused, --older-than AGE or --all; --dry-run shows what would go"
        )
    moment = None if older_than is None else time.time() - older_than

    def choose(items: Sequence[Item]) -> Sequence[Item]:
        if everything:
            return items
        chosen = [item for item in items if item.kind == "leftover"]
        chosen += store.unneeded(items=items, cache=root) if unused else ()
        chosen += store.used_before(items, moment) if moment is not None else ()
        return list(dict.fromkeys(chosen))

    console = Console(as_json=as_json)
    root = cache_root()
    found = choose(store.inventory(root))
    if dry_run or not found:
        for item in found:
            console.line(f"{item.kind:<8}  {_text(item.size):>9}  {item.name}")
        console.line(f"would remove {_sum(found)}" if found else "nothing to remove")
        console.result({"dry_run": dry_run, "removed": _data(found), "in_use": []})
        return EXIT_OK
    if not yes:
        if as_json or not sys.stdin.isatty():
            raise UsageError("nobody is there to be asked", hint="say --yes to remove, or --dry-run to look")
        if not click.confirm(f"Remove {_sum(found)}?", err=True):
            return EXIT_OK
    gone, spared = store.prune(root, choose)
    for item in spared:
        console.line(f"in use, kept: {item.kind} {item.name}")
    console.line(f"removed {_sum(gone)}")
    console.result({"dry_run": False, "removed": _data(gone), "in_use": [item.name for item in spared]})
    return EXIT_OK


@command.command("verify")
@json_option
def verify(as_json: bool) -> int:
    """Read every layer and wheel and remove what is damaged; the next run makes it again.

    Exit code 3 says that something was damaged.
    """
    from reprobox.cache import cache_root
    from reprobox.cli.console import Console
    from reprobox.errors import EXIT_ENGINE, EXIT_OK
    from reprobox.workflow import cache as store

    console = Console(as_json=as_json)
    read, damaged = store.verify(cache_root(), observer=console)
    for item in damaged:
        console.line(f"damaged, removed: {item.kind} {item.name}")
    console.line(f"{read - len(damaged)} of {read} layers and wheels are intact")
    console.result({"checked": read, "damaged": _data(damaged)})
    return EXIT_ENGINE if damaged else EXIT_OK


def _text(size: int) -> str:
    from reprobox.units import size_text

    return size_text(size)


def _sum(items: Sequence[Item]) -> str:
    return f"{len(items)} item{'' if len(items) == 1 else 's'}, {_text(sum(item.size for item in items))}"


def _data(items: Sequence[Item]) -> dict[str, Any]:
    return {
        "size": sum(item.size for item in items),
        "items": [
            {
                "kind": item.kind,
                "name": item.name,
                "size": item.size,
                "last_used": round(item.last_used, 3),
                "path": str(item.path),
            }
            for item in items
        ],
    }
