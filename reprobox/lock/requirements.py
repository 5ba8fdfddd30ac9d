"""The requirements as the user wrote them: found, read with everything they include, and checked line by line.

uv reads the same files again when it resolves. They are read here first for three reasons: the cache key must cover
every included file, entries that a lock cannot hold must be named with their line, and hashes are a promise to keep.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from reprobox.errors import SpecError
from reprobox.lock.addresses import scrub
from reprobox.lock.choices import Choices
from reprobox.lock.foreign import EXPORTERS, UV_LOCK
from reprobox.lock.pyproject import read_pyproject
from reprobox.lock.requirements_text import IndexOptions, Line, classify_unlockable, parse_lines
from reprobox.lock.settings import Settings, gather_settings

Kind = Literal["requirements", "pyproject", "pylock", "uv", "foreign"]

NO_CHOICES = Choices()
_PYLOCK_NAME = re.compile(r"pylock(\.[^.]+)?\.toml")
_KNOWN_PATTERNS = (
    "requirements*.txt", "requirements*.in", "requirements/*.txt", "pyproject.toml", "pylock*.toml", UV_LOCK, *EXPORTERS
)  # fmt: skip
_EXPECTED = f"expected requirements.txt, pyproject.toml, pylock.toml, {UV_LOCK}, {' or '.join(EXPORTERS)}"
_UNREADABLE = {
    "Pipfile": "Lock it (`pipenv lock`), then name Pipfile.lock.",
    "setup.py": "List what the program needs in requirements.txt; a setup.py would have to be executed to be read.",
    "environment.yml": "List its pip packages in requirements.txt; conda packages are not wheels.",
    "environment.yaml": "List its pip packages in requirements.txt; conda packages are not wheels.",
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One requirement: where it stands (`requirements.txt, line 3`), the normalised project name, the hashes promised
    for it, and whether it is pinned to one version.
    """

    where: str
    name: str
    pinned: bool
    hashes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """A requirements source: the file, its kind, its entries, index options it sets itself, and `content`, the bytes
    (of every included file too) on which a resolution depends. `groups_only`: a pyproject.toml without a project.
    `text` is what to resolve where it stands in no file; `path` then only says where it belongs.
    """

    path: Path
    kind: Kind
    entries: tuple[Entry, ...] = ()
    options: IndexOptions = field(default_factory=IndexOptions)
    content: tuple[bytes, ...] = ()
    groups_only: bool = False
    text: str | None = None

    @property
    def complete(self) -> bool:
        """Whether the file is a lock already: every entry pinned to one version and to hashes."""
        return self.kind in ("pylock", "uv", "foreign") or (
            bool(self.entries) and all(entry.pinned and entry.hashes for entry in self.entries)
        )

    @property
    def promised(self) -> dict[str, frozenset[str]]:
        """The sha256 digests that the file allows for a project, for every project that it gives any for."""
        promised: dict[str, frozenset[str]] = {}
        for entry in self.entries:
            digests = {value.partition(":")[2] for value in entry.hashes if value.startswith("sha256:")}
            if entry.hashes:
                promised[entry.name] = promised.get(entry.name, frozenset()) | digests
        return promised


def find_requirements(project: Path, name: str, choices: Choices = NO_CHOICES) -> Requirements:
    """Read the requirements source `name` of `project`: requirements.txt, pyproject.toml or a lock.

    Raises SpecError when there is no such file (naming those that exist), when it is of a kind that cannot be read or
    leaves no room for `choices`, or when an entry of it is not a requirement or cannot be part of a lock.
    """
    path = project / name
    if path.is_file():
        return read_requirements(path, choices)
    there = sorted(
        {found.relative_to(project).as_posix() for pattern in _KNOWN_PATTERNS for found in project.glob(pattern)}
        | {foreign for foreign in _UNREADABLE if (project / foreign).is_file()}
    )
    readable = [candidate for candidate in there if candidate not in _UNREADABLE]
    close = difflib.get_close_matches(name, readable, n=1, cutoff=0.5) or readable[:1]
    details = ["looked in the project folder" + (", where there is: " + ", ".join(there) if there else "")]
    if path.is_dir():
        details.append("it is a folder")
    hint = f"Did you mean {close[0]}?" if close else _UNREADABLE[there[0]] if there else None
    raise SpecError(
        f"no such requirements file: {name}",
        details=tuple(details),
        hint=hint or "Write one package a line into requirements.txt, or name the file that lists them (requirements).",
    )


def read_requirements(path: Path, choices: Choices = NO_CHOICES) -> Requirements:
    """Read the requirements source at `path`; raises SpecError as `find_requirements` does."""
    name = path.name
    if name in _UNREADABLE:
        raise SpecError(f"requirements cannot be read from {name}", details=(_EXPECTED,), hint=_UNREADABLE[name])
    if name == "pyproject.toml":
        return _read_pyproject(path, choices)
    if name == UV_LOCK or name in EXPORTERS:
        extras = name == UV_LOCK or EXPORTERS[name].extras
        choices.check_room(name, groups=True, extras=extras, resolving=False)
        kind: Kind = "uv" if name == UV_LOCK else "foreign"
        return Requirements(path=path, kind=kind, content=(_bytes_of(path, name),))
    if _PYLOCK_NAME.fullmatch(name):
        choices.check_room(name, groups=False, extras=False, resolving=False)
        return Requirements(path=path, kind="pylock", content=(_bytes_of(path, name),))
    read = _read_lines(path, name, _text_of(_bytes_of(path, name), name))
    choices.check_room(name, groups=False, extras=False, resolving=not read.complete)
    return read


def index_options(path: Path) -> IndexOptions:
    """Return the index options that the requirements source at `path` sets itself; only a requirements.txt can."""
    if path.name == "pyproject.toml" or path.name == UV_LOCK or path.name in EXPORTERS:
        return IndexOptions()
    return read_requirements(path).options


def settings_for(requirements: Path | None) -> tuple[Settings, IndexOptions]:
    """Return the user's settings where `requirements` lies, and the index options that the file sets itself.

    None is for what has only a manifest: the settings of the current folder, and no options.
    """
    if requirements is None:
        return gather_settings(Path.cwd(), IndexOptions()), IndexOptions()
    options = index_options(requirements)
    return gather_settings(requirements.absolute().parent, options), options


def read_requirements_text(text: str, path: Path) -> Requirements:
    """Read requirements that another tool made of the lock at `path`; errors name the lines of its answer."""
    return _read_lines(path, f"{path.name}, exported", text)


def _read_lines(path: Path, shown: str, text: str) -> Requirements:
    reader = _Reader()
    reader.read(path, shown, text, constraint=False, parents=())
    return Requirements(
        path=path,
        kind="requirements",
        entries=tuple(reader.entries),
        options=reader.options,
        content=tuple(reader.content),
    )


class _Reader:
    """Reads a requirements file and what it includes."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.options = IndexOptions()
        self.content: list[bytes] = []

    def read(self, path: Path, shown: str, text: str, *, constraint: bool, parents: tuple[Path, ...]) -> None:
        if path.resolve() in parents:
            raise SpecError(f"{shown} includes itself", hint="Remove the -r or -c line that leads back to it.")
        self.content.append(text.encode())
        for line in parse_lines(text, shown):
            for included, is_constraint in line.includes:
                if "://" in included:
                    raise SpecError(
                        f"{line.where}: a remote file cannot be included",
                        details=("its content may change without a trace in the lock",),
                        hint="Keep a copy of it in the project and include that.",
                    )
                target = path.parent / included
                if not target.is_file():
                    raise SpecError(
                        f"{line.where}: no such file to include: {included}",
                        details=("paths are relative to the file that includes them",),
                    )
                self.read(
                    target,
                    included,
                    _text_of(_bytes_of(target, included), included),
                    constraint=constraint or is_constraint,
                    parents=(*parents, path.resolve()),
                )
            self.options = self.options.merged(_anchored(line.options, path.parent))
            # Constraints restrict versions; they name nothing to install, and their hashes bind only what is installed.
            if line.requirement is not None:
                entry = _entry(line.requirement, line.where, line.hashes)
                if not constraint:
                    self.entries.append(entry)
            elif line.editable is not None:
                raise _unlockable(line, "an editable project")


def _anchored(options: IndexOptions, folder: Path) -> IndexOptions:
    """Make folders of find-links absolute: as in pip, they are relative to the file that names them, if there."""
    links = tuple(
        str((folder / link).absolute()) if "://" not in link and (folder / link).exists() else link
        for link in options.find_links
    )
    return replace(options, find_links=links)


def _unlockable(line: Line, what: str) -> SpecError:
    return SpecError(
        f"{line.where}: {what} cannot be part of a lock",
        details=(f"found: {scrub(line.text)}", "a lock holds wheels of package indexes, by name, version and hash"),
        hint="Name a released version (`name==1.2`); code of your own belongs into the project folder, or build its "
        "wheel and name that folder with find-links.",
    )


def _entry(text: str, where: str, hashes: tuple[str, ...]) -> Entry:
    from packaging.requirements import InvalidRequirement, Requirement  # not needed by `reprobox --help`
    from packaging.utils import canonicalize_name

    what = classify_unlockable(text)
    if what is not None:
        raise _unlockable(Line(where=where, text=text), what)
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        raise SpecError(
            f"{where}: not a requirement: {scrub(text)}",
            details=(str(error).splitlines()[0],),
            hint="Write a package name and, if wanted, versions: `numpy`, `torch==2.13.0`, `click>=8,<9`.",
        ) from error
    specifiers = list(requirement.specifier)
    pinned = (
        len(specifiers) == 1 and specifiers[0].operator in ("==", "===") and not specifiers[0].version.endswith(".*")
    )
    return Entry(where=where, name=canonicalize_name(requirement.name), pinned=pinned, hashes=hashes)


def _read_pyproject(path: Path, choices: Choices) -> Requirements:
    found = read_pyproject(_text_of(_bytes_of(path, path.name), path.name), choices)
    entries = tuple(_entry(text, where, ()) for where, text in found.listed)
    return Requirements(
        path=path, kind="pyproject", entries=entries, content=(found.content,), groups_only=found.groups_only
    )


def _bytes_of(path: Path, shown: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SpecError(f"{shown} cannot be read: {error.strerror}") from error


def _text_of(raw: bytes, shown: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(f"{shown} is not text in UTF-8", details=(f"first offending byte at {error.start}",)) from error
