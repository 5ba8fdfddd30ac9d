"""The environment that is active now, captured as a Lock: every distribution in it, checked against its RECORD.

What an index offers is locked to the wheel that was installed; that it is that wheel is checked file by file. Whatever
is installed otherwise (editable, from version control, from a folder, edited since, or offered nowhere) is packed into
a wheel from the installed files and marked with its `origin`.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reprobox.cache import storage_errors
from reprobox.digests import sha256_of_file
from reprobox.errors import LockError
from reprobox.lock.download import fetch_wheels, store_wheel
from reprobox.lock.model import Lock, LockedPackage, Sources, torch_build
from reprobox.lock.pylock import select_wheels
from reprobox.lock.repack import editable_contents, installed_contents, repack, wheel_name
from reprobox.lock.requirements_text import IndexOptions
from reprobox.lock.settings import Settings, gather_settings
from reprobox.lock.store import write_sources
from reprobox.lock.uv_command import UvFailure, compile_pylock
from reprobox.lock.uv_words import explain, no_solution
from reprobox.progress import Observer

# It is laid beside the program when it runs, and is not part of what the program needs.
_OURS = "reprobox"
_MOST_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """One installed distribution, its name normalised. `files` are (path, hash as recorded, hash as found)."""

    name: str
    version: str
    site: Path
    direct_url: dict[str, Any] | None
    files: tuple[tuple[str, str, str], ...]
    tags: tuple[str, ...]
    top_level: tuple[str, ...]

    @property
    def edited(self) -> tuple[str, ...]:
        """The files that are not what was installed, or are gone."""
        return tuple(
            path for path, recorded, found in self.files if recorded.startswith("sha256=") and recorded != found
        )

    @property
    def origin(self) -> str | None:
        """How it came here other than from an index: editable, vcs, folder or archive."""
        if self.direct_url is None:
            return None
        if self.direct_url.get("dir_info", {}).get("editable"):
            return "editable"
        return next((kind for kind in ("vcs", "archive") if f"{kind}_info" in self.direct_url), "folder")


@dataclass(frozen=True, kw_only=True)
class Captured:
    """An environment as found: its Python (`3.11`) and its distributions by name."""

    python: str
    distributions: tuple[Distribution, ...]


def inspect(observer: Observer) -> Captured:
    """Look at the environment whose `python` comes first in PATH, as it does where one is activated.

    Raises LockError when there is no Python or it cannot say what is installed.
    """
    python = shutil.which("python") or shutil.which("python3")
    if python is None:
        raise LockError("there is no environment to capture: no python in PATH", hint="Activate the environment first.")
    observer.working("lock", "hashing the files of the environment")
    code = Path(__file__).with_name("inspection.py").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="reprobox-capture-") as empty:
        done = subprocess.run([python, "-E", "-c", code], cwd=empty, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LockError(
            f"{python} cannot say what is installed",
            details=tuple(done.stderr.strip().splitlines()[-3:]),
            hint="Its environment may be damaged: `pip check` looks at it.",
        )
    return read_inspection(json.loads(done.stdout))


def read_inspection(answer: dict[str, Any]) -> Captured:
    """Read what `inspection.py` wrote. Raises LockError for a distribution that kept no RECORD."""
    from packaging.utils import canonicalize_name  # not needed by `reprobox --help`

    found = []
    for entry in answer["distributions"]:
        name = canonicalize_name(entry["name"])
        if name == _OURS:
            continue
        if entry["files"] is None:
            raise LockError(
                f"{name} {entry['version']} in the environment cannot be captured: it keeps no RECORD of its files",
                details=("it was installed by setup.py or by the system's package manager",),
                hint="Capture a virtual environment made with pip or uv, without the system's packages.",
            )
        found.append(
            Distribution(
                name=name,
                version=entry["version"],
                site=Path(entry["site"]),
                direct_url=entry["direct_url"],
                files=tuple((path, recorded, actual) for path, recorded, actual in entry["files"]),
                tags=tuple(entry["tags"]) or ("py3-none-any",),
                top_level=tuple(entry["top_level"]),
            )
        )
    return Captured(python=answer["python"], distributions=tuple(sorted(found, key=lambda each: each.name)))


def capture(captured: Captured, *, platform: str, folder: Path, cache: Path, observer: Observer) -> Lock:
    """Return the lock of a captured environment for `platform`; all its wheels are in the cache afterwards.

    `folder` is where the user's settings of uv are looked for. Edited files are named by warnings. Raises LockError
    when an index cannot be asked, or an install cannot be packed.
    """
    settings = gather_settings(folder, IndexOptions())
    plain = [each for each in captured.distributions if each.origin is None and not each.edited]
    observer.working("lock", f"looking up {len(plain)} wheels")
    offered, sources = _offered(plain, settings, captured.python, platform)
    lock = Lock(python=captured.python, platform=platform, packages=offered)
    write_sources(cache, lock, sources)
    wheels = fetch_wheels(lock, requirements=None, cache=cache, observer=observer)
    by_name = {each.name: each for each in offered}
    packages = []
    for each in captured.distributions:
        package = by_name.get(each.name)
        if package is not None and _is_installed(each, wheels[package.sha256]):
            packages.append(package)
            continue
        reason = each.origin or ("edited" if each.edited or package is not None else "unpublished")
        packages.append(_packed(each, reason, captured.python, platform, cache))
        observer.warning(_told(each, reason))
    return Lock(python=captured.python, platform=platform, packages=tuple(packages))


def _told(each: Distribution, reason: str) -> str:
    what = f"{each.name} {each.version} is packed from its installed files"
    if each.edited:
        more = f" and {len(each.edited) - _MOST_NAMED} more" if len(each.edited) > _MOST_NAMED else ""
        return f"{what}: edited since it was installed: {', '.join(each.edited[:_MOST_NAMED])}{more}"
    why = {
        "edited": "the wheel that your indexes offer is another one",
        "unpublished": "none of your indexes offers a wheel of it",
        "editable": "it is an editable install",
        "vcs": "it was installed from version control",
        "folder": "it was installed from a folder",
        "archive": "it was installed from an address",
    }
    return f"{what}: {why[reason]}"


def _offered(
    wanted: Sequence[Distribution], settings: Settings, python: str, platform: str
) -> tuple[tuple[LockedPackage, ...], Sources]:
    """Return a wheel of each distribution that an index offers in that version; those offered nowhere are left out."""
    if not wanted:
        return (), {}
    text = "".join(f"{each.name}=={each.version}\n" for each in wanted)
    arguments: tuple[str, ...] = ("--no-deps", "--prerelease", "allow")
    build = torch_build(wanted[0].version) if len(wanted) == 1 else None
    attempts = [arguments, *([(*arguments, "--torch-backend", build)] if build else [])]
    for attempt in attempts:
        try:
            document = compile_pylock(text, settings, python=python, platform=platform, arguments=attempt).document
        except UvFailure as failure:
            if not no_solution(failure) and attempt is attempts[0]:
                raise explain(failure, source="the environment", python=python, platform=platform) from None
            continue
        lock, sources = select_wheels(
            document,
            python=python,
            platform=platform,
            shown="the environment",
            folder=settings.folder,
            promised={},
        )
        return lock.packages, sources
    if len(wanted) == 1:
        return (), {}
    # One that is offered nowhere makes the whole question fail: halves find it in few questions.
    middle = len(wanted) // 2
    left, of_left = _offered(wanted[:middle], settings, python, platform)
    right, of_right = _offered(wanted[middle:], settings, python, platform)
    return (*left, *right), of_left | of_right


def _is_installed(each: Distribution, wheel: Path) -> bool:
    """Tell whether the files of a wheel are those installed; its scripts and data files are rewritten on the way."""
    found = {path: actual for path, _, actual in each.files}
    with zipfile.ZipFile(wheel) as archive:
        # Deeper ones are those of what a package carries inside.
        record = next(name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/RECORD", name))
        rows = list(csv.reader(io.StringIO(archive.read(record).decode())))
    return all(
        found.get(row[0]) == row[1]
        for row in rows
        if len(row) == 3 and row[1].startswith("sha256=") and ".data/" not in row[0] and not row[0].endswith(".pyc")
    )


def _packed(each: Distribution, origin: str, python: str, platform: str, cache: Path) -> LockedPackage:
    stem = f"{each.name.replace('-', '_')}-{each.version}"
    present = [path for path, _, actual in each.files if actual]
    tags = each.tags
    if origin == "editable":
        contents = editable_contents(each.name, each.site, present, list(each.top_level), stem)
        if any(path.endswith(".so") for path in contents):
            interpreter = f"cp{python.replace('.', '')}"
            tags = (f"{interpreter}-{interpreter}-linux_{platform.partition('-')[0]}",)
    else:
        contents = installed_contents(each.site, present, stem)
    with storage_errors(cache):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="packed-", dir=cache) as folder:
            made = Path(folder) / wheel_name(each.name, each.version, tags)
            repack(stem, tags, contents, made)
            sha256 = sha256_of_file(made)
            package = LockedPackage(name=each.name, version=each.version, file=made.name, sha256=sha256, origin=origin)
            package.check()
            store_wheel(package, made, cache)
    return package
