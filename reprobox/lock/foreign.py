"""Locks of other tools, exported by the tool that wrote them: uv.lock, poetry.lock, Pipfile.lock.

None of these formats is meant to be read by others; each tool has a command that writes what others read.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reprobox.errors import LockError
from reprobox.lock.addresses import scrub
from reprobox.lock.choices import Choices
from reprobox.lock.settings import Settings
from reprobox.lock.uv_command import UvFailure, run_uv

UV_LOCK = "uv.lock"


@dataclass(frozen=True, kw_only=True)
class Exporter:
    """How `tool` writes a lock as requirements with hashes on its standard output: `command` makes the arguments of
    the user's groups and extras; `extras` says whether such a lock can have any; `by_hand` does the same in a shell.
    """

    tool: str
    command: Callable[[Choices], Sequence[str]]
    extras: bool
    install: str
    by_hand: str


def _poetry(choices: Choices) -> list[str]:
    command = ["export", "--format", "requirements.txt", "--no-ansi", "--no-interaction"]
    command += ["--with", ",".join(choices.groups)] if choices.groups else []
    return command + [word for extra in choices.extras for word in ("--extras", extra)]


def _pipenv(choices: Choices) -> list[str]:
    return ["requirements", "--hash", f"--categories={' '.join(('packages', *choices.groups))}"]


EXPORTERS = {
    "poetry.lock": Exporter(
        tool="poetry",
        command=_poetry,
        extras=True,
        install="pip install poetry poetry-plugin-export",
        by_hand="poetry export -o requirements.txt",
    ),
    "Pipfile.lock": Exporter(
        tool="pipenv",
        command=_pipenv,
        extras=False,
        install="pip install pipenv",
        by_hand="pipenv requirements --hash > requirements.txt",
    ),
}


def export_uv_lock(path: Path, choices: Choices, settings: Settings) -> dict[str, Any]:
    """Return what `uv export` makes of a uv.lock, as the dictionary of a pylock.toml for every platform.

    The project itself is left out, as its code is in the snapshot. Raises LockError when uv cannot read it.
    """
    with tempfile.TemporaryDirectory(prefix="reprobox-lock-") as name:
        output = Path(name) / "pylock.toml"
        wanted = [word for group in choices.groups for word in ("--group", group)]
        wanted += [word for extra in choices.extras for word in ("--extra", extra)]
        try:
            run_uv(
                [
                    *("export", "--frozen", "--format", "pylock.toml", "--output-file", str(output)),
                    *("--no-emit-project", "--no-default-groups", "--color", "never", "--no-progress", "--no-header"),
                    *("--python", sys.executable, "--no-python-downloads"),
                    *wanted,
                ],
                settings,
            )
        except UvFailure as failure:
            raise LockError(
                f"{path.name} cannot be read by uv",
                details=tuple(scrub(failure.text).splitlines()[:12]),
                hint="`uv lock --check` says whether lock and pyproject.toml agree; `uv lock` writes the lock anew.",
            ) from None
        return tomllib.loads(output.read_text(encoding="utf-8"))


def export_requirements_text(path: Path, choices: Choices) -> str:
    """Return the requirements with hashes that the tool of the lock `path` (one of EXPORTERS) exports.

    Raises LockError when the tool is not installed or fails.
    """
    exporter = EXPORTERS[path.name]
    binary = shutil.which(exporter.tool)
    by_hand = f"or export it where it is: `{exporter.by_hand}`, then name requirements.txt."
    if binary is None:
        raise LockError(
            f"{path.name} can only be read by {exporter.tool}, which is not installed here",
            details=(f"looked for the command {exporter.tool} in PATH",),
            hint=f"Install it (`{exporter.install}`), {by_hand}",
        )
    done = subprocess.run(
        [binary, *exporter.command(choices)],
        cwd=path.absolute().parent,
        # Both look for a virtual environment to work in, which an export has no need of.
        env={**os.environ, "POETRY_VIRTUALENVS_CREATE": "false", "PIPENV_IGNORE_VIRTUALENVS": "1", "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = [line for line in scrub(done.stdout + done.stderr).splitlines() if line.strip()]
        raise LockError(
            f"{exporter.tool} cannot export {path.name} (exit status {done.returncode})",
            details=tuple(said[-8:]),
            hint=f"`{exporter.install}` installs all that it needs; {by_hand}",
        )
    return done.stdout
