"""The project's own lock: the pylock.toml that `reprobox lock` writes beside reprobox.yaml and every run then takes.

It is meant to be committed. It remembers a digest of the requirements that it was made of, so that a run can tell when
they have changed since; resolving them again is left to `reprobox lock`, because a run does not change its project.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reprobox.digests import canonical_digest, sha256_of
from reprobox.errors import LockError, SpecError
from reprobox.lock.choices import Choices
from reprobox.lock.export import WHEELS, export_pylock
from reprobox.lock.model import Lock
from reprobox.lock.pylock import select_wheels
from reprobox.lock.requirements import Requirements
from reprobox.lock.requirements_text import logical_lines
from reprobox.lock.store import read_sources, write_sources

PROJECT_LOCK = "pylock.toml"


@dataclass(frozen=True, kw_only=True)
class ProjectLock:
    """`text` is the file's, `inputs` the digest of the requirements it was made of.

    `captured` says that it was made of an environment; `inputs` is then of the file beside it, empty without one.
    """

    path: Path
    text: str
    document: dict[str, Any]
    inputs: str
    captured: bool = False

    def check_current(self, read: Requirements, choices: Choices) -> None:
        """Raise SpecError when the requirements are not those that the lock was made of."""
        if self.inputs in (inputs_digest(read, choices), _bytes_digest(read, choices)):
            return
        raise SpecError(
            f"{PROJECT_LOCK} was made of other requirements than {read.path.name} and the spec name now",
            details=(
                "looked at: what the file and those it includes say, comments aside; groups, extras, exclude_newer and "
                "torch_backend",
            ),
            hint="`reprobox lock` brings it up to date; `reprobox run --relock` leaves it aside for one run.",
        )

    def select(self, *, python: str, platform: str, cache: Path) -> Lock:
        """Return the lock for a Python and a platform. Raises LockError when it does not fit them."""
        lock, sources = select_wheels(
            self.document,
            python=python,
            platform=platform,
            shown=PROJECT_LOCK,
            folder=self.path.parent,
            promised={},
        )
        # The paths in it are where the wheels may lie; where they were found before is as good an address.
        wheels = self.path.parent / WHEELS
        there = {each.sha256: sources[each.sha256] for each in lock.packages if (wheels / each.file).is_file()}
        if there:
            write_sources(cache, lock, read_sources(cache, lock) | there)
        return lock

    def as_made(self) -> Lock:
        """Return the lock for the Python and platform that it was made for, to compare another with it."""
        own = self.document["tool"]["reprobox"]
        lock, _ = select_wheels(
            self.document,
            python=str(own.get("python")),
            platform=str(own.get("platform")),
            shown=PROJECT_LOCK,
            folder=self.path.parent,
            promised={},
        )
        return lock


def read_project_lock(project: Path) -> ProjectLock | None:
    """Return the lock that `reprobox lock` wrote into `project`; None when there is none, or only another tool's.

    Raises LockError when the file cannot be read.
    """
    path = project / PROJECT_LOCK
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise LockError(
            f"{PROJECT_LOCK} cannot be read: {error}",
            hint="Get it again from where it was, or delete it and lock anew.",
        ) from error
    own = document.get("tool", {}).get("reprobox")
    if not isinstance(own, dict):
        return None
    return ProjectLock(
        path=path, text=text, document=document, inputs=str(own.get("inputs", "")), captured="captured" in own
    )


def project_lock_text(lock: Lock, read: Requirements, choices: Choices) -> str:
    """Return the text of the project's lock."""
    return export_pylock(lock, {"requirements": read.path.name, "inputs": inputs_digest(read, choices)})


def captured_lock_text(lock: Lock, read: Requirements | None, choices: Choices) -> str:
    """Return the text of the lock of a captured environment; `read` is the requirements file beside it, if any."""
    inputs = inputs_digest(read, choices) if read is not None else ""
    return export_pylock(lock, {"captured": "true", "inputs": inputs})


def inputs_digest(read: Requirements, choices: Choices) -> str:
    """Return `sha256:` over what the project says of its packages: neither settings of the user nor the machine, and no
    comment, blank line or indentation.
    """
    if read.kind != "requirements":
        return _bytes_digest(read, choices)
    return _digest(read, choices, (_said(content) for content in read.content))


def _said(content: bytes) -> bytes:
    return "\n".join(" ".join(line.split()) for _, line in logical_lines(content.decode())).encode()


def _bytes_digest(read: Requirements, choices: Choices) -> str:
    """Return the digest that a lock may still hold which was made when comments counted, too."""
    return _digest(read, choices, read.content)


def _digest(read: Requirements, choices: Choices, contents: Iterable[bytes]) -> str:
    digests = [sha256_of(content) for content in contents]
    asked = {key: value for key, value in choices.as_key().items() if key != "driver"}
    return canonical_digest([read.path.name, digests, asked])
