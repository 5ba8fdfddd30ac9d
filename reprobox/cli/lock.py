"""`reprobox lock`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reprobox.cli.options import engine_option, json_option, overrides, project_option, spec_options

if TYPE_CHECKING:
    from reprobox.cli.console import Console
    from reprobox.workflow.lock import LockReport

_ALL = "*"


@click.command("lock")
@spec_options
@engine_option
@project_option
@click.option(
    "--upgrade",
    multiple=True,
    is_flag=False,
    flag_value=_ALL,
    metavar="[NAME]",
    help="Let this package take a newer version (repeatable); without a name, all of them.",
)
@click.option("--from-env", is_flag=True, help="Lock the packages of the active environment, exactly as installed.")
@json_option
def command(
    spec_file: Path | None,
    engine: str | None,
    project: Path,
    upgrade: tuple[str, ...],
    from_env: bool,
    as_json: bool,
    **flags: Any,
) -> int:
    """Resolve the requirements into pylock.toml, which every run then takes, and show what changed.

    Versions that are locked stay as far as the requirements allow. Commit the file: it names every wheel by its hash.
    """
    from packaging.utils import canonicalize_name

    from reprobox.cache import cache_root
    from reprobox.cli.console import Console
    from reprobox.spec import load_spec
    from reprobox.workflow.lock import lock_environment, make_lock

    console = Console(as_json=as_json)
    spec = load_spec(project, file=spec_file, overrides=overrides(flags), need_command=False)
    names = None if not upgrade else () if _ALL in upgrade else tuple(canonicalize_name(name) for name in upgrade)
    if from_env:
        if upgrade:
            raise click.UsageError("--from-env takes what is installed; --upgrade has nothing to choose")
        report = lock_environment(spec, project, engine=engine, cache=cache_root(), observer=console)
    else:
        report = make_lock(spec, project, engine=engine, upgrade=names, cache=cache_root(), observer=console)
    _summarise(report, console)
    console.result(
        {
            "path": str(report.path) if report.path else None,
            "written": report.written,
            "digest": report.lock.digest,
            "python": report.lock.python,
            "platform": report.lock.platform,
            "packages": len(report.lock.packages),
            "packed": {each.name: each.origin for each in report.lock.packages if each.origin is not None},
            "changes": [
                {"name": each.name, "kind": each.kind, "before": each.before, "after": each.after}
                for each in report.changes
            ],
        }
    )
    return 0


def _summarise(report: LockReport, console: Console) -> None:
    what = f"{len(report.lock.packages)} packages for Python {report.lock.python} on {report.lock.platform}"
    if report.path is None:
        console.field("lock", f"{what}: {report.requirements} is a lock already and is taken as it is")
        return
    if not report.first:
        for each in report.changes:
            version = {
                "added": f"{each.after}",
                "removed": f"{each.before}",
                "updated": f"{each.before} -> {each.after}",
                "rebuilt": f"{each.after}, another wheel",
            }[each.kind]
            console.field(each.kind, f"{each.name} {version}")
    console.field("lock", what)
    note = "written" if report.written else "nothing changed"
    console.field("file", f"{report.path}, {note}")
