"""uv started as a child process: the command, its private folder, and what it said."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reprobox.errors import LockError
from reprobox.lock.settings import Settings


class UvFailure(Exception):
    """uv ended with `status` (negative: killed by that signal) and wrote `text` to its standard error.

    Callers look at it and say in their own words what it means; it is never shown as it is.
    """

    def __init__(self, status: int, text: str) -> None:
        """Keep both as they came."""
        super().__init__(status, text)
        self.status = status
        self.text = text


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A resolution: the pylock.toml as a dictionary, and what uv `said` on its standard error while it made it."""

    document: dict[str, Any]
    said: str


def uv_version() -> str:
    """Return the version of uv as installed, without starting it (a warm start has no time for a process)."""
    from importlib.metadata import PackageNotFoundError, version  # slow to import, and only a resolution needs it

    try:
        return version("uv")
    except PackageNotFoundError:
        return "unknown"


def compile_pylock(
    source: Path | str | None,
    settings: Settings,
    *,
    python: str,
    platform: str | None,
    arguments: tuple[str, ...] = (),
    preferred: str | None = None,
) -> Compiled:
    """Run `uv pip compile` and return the pylock.toml it writes, with what it said beside it.

    `source` is a requirements file, or the text of one; None when `arguments` say what is wanted (`--group`).
    `platform` None asks for a universal resolution, which lists every wheel of a release and not only the one that
    fits best. `preferred` is the text of a pylock.toml whose versions are kept as far as they fit. Raises UvFailure
    when uv fails, LockError when it cannot be started.
    """
    # The folder is ours alone (0700): pins and options in it may tell of private packages.
    with tempfile.TemporaryDirectory(prefix="reprobox-lock-") as name:
        private = Path(name)
        if isinstance(source, str):
            (private / "requirements.txt").write_text(source, encoding="utf-8")
            source = private / "requirements.txt"
        output = private / "pylock.toml"
        if preferred is not None:
            output.write_text(preferred, encoding="utf-8")
        place = ("--universal",) if platform is None else ("--python-platform", platform)
        said = run_uv(
            [
                *("pip", "compile", "--color", "never", "--no-progress", "--no-header", "--no-annotate"),
                *(
                    "--format",
                    "pylock.toml",
                    "--generate-hashes",
                    "--only-binary",
                    ":all:",
                    "--output-file",
                    str(output),
                ),
                *("--python-version", python, *place),
                # Any interpreter will do, as version and platform are given: ours is there and needs no search.
                *("--python", sys.executable, "--no-python-downloads"),
                *settings.arguments,
                *arguments,
                *(() if source is None else ("--", str(source.absolute()))),
            ],
            settings,
        )
        return Compiled(document=tomllib.loads(output.read_text(encoding="utf-8")), said=said)


def run_uv(arguments: list[str], settings: Settings) -> str:
    """Start uv with the user's settings, wait for it, and return what it wrote to its standard error.

    Raises UvFailure when it fails, LockError when it cannot be started.
    """
    import uv  # its search for the binary reads sysconfig, which the command line's start can do without

    advice = "Install reprobox again, or uv into the same environment (`pip install --force-reinstall uv`)."
    try:
        binary = uv.find_uv_bin()
    except FileNotFoundError as error:
        raise LockError("uv, which resolves requirements, is not installed completely", hint=advice) from error
    try:
        done = subprocess.run(
            [binary, *arguments],
            cwd=settings.folder,
            env=dict(settings.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
    except OSError as error:
        raise LockError(f"uv cannot be started: {error.strerror}", hint=advice) from error
    said = done.stderr.decode(errors="replace")
    if done.returncode != 0:
        raise UvFailure(done.returncode, said)
    return said
