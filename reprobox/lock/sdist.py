"""What a source archive says it needs to be built, and what its backend asked for: both read with distrust."""

from __future__ import annotations

import json
import lzma
import re
import stat
import tarfile
import tomllib
import zipfile
import zlib
from pathlib import Path
from typing import IO, TypeGuard

from reprobox.errors import LockError

# What a build is to start with where a project says nothing. Source: PEP 517, and pypa/build's own default.
_DEFAULT = ("setuptools>=40.8.0",)
_MOST = 1 << 20
# With these an option, a comment, a variable of the user's or a line that goes on would begin in a file for uv.
_MORE_THAN_A_REQUIREMENT = re.compile(r"\s-|[^ -~]|[#$\\]")


def build_requires(path: Path) -> tuple[str, ...]:
    """Return the requirements that the source archive at `path` gives in `build-system.requires` (PEP 518).

    Raises LockError when the archive or its pyproject.toml cannot be read.
    """
    try:
        text = _pyproject(path)
    # Whatever is in an archive, reading it ends in one of these (RuntimeError: encrypted, or nested without end).
    except (
        *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError),
        *(ValueError, RuntimeError, OverflowError),
    ) as error:
        raise LockError(f"the source archive {path.name} cannot be read: {error}") from error
    try:
        table = tomllib.loads(text.decode()).get("build-system") if text is not None else None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LockError(f"{path.name}: its pyproject.toml is not valid: {error}") from error
    if table is None:
        return _DEFAULT
    found = table.get("requires") if isinstance(table, dict) else None
    if not _is_text_list(found):
        raise LockError(
            f"{path.name}: its pyproject.toml does not say what a build needs",
            details=("expected a list of requirements: build-system.requires (PEP 518)",),
        )
    return _requirements(found, path.name)


def asked_requires(path: Path, archive: str) -> tuple[str, ...]:
    """Return the requirements in the file at `path`: what the backend of the source archive named `archive` asked for.

    The build wrote it, so it may be anything at all. Raises LockError when it is no list of requirements.
    """
    found = None
    try:
        # Neither a link to a file of this machine, nor a pipe that nobody ever writes to.
        told = path.lstat()
        if stat.S_ISREG(told.st_mode) and told.st_size <= _MOST:
            found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        pass
    if not _is_text_list(found):
        raise LockError(f"the build backend of {archive} does not say what it needs")
    return _requirements(found, archive)


def _is_text_list(found: object) -> TypeGuard[list[str]]:
    return isinstance(found, list) and all(isinstance(line, str) for line in found)


def _requirements(lines: list[str], archive: str) -> tuple[str, ...]:
    """Return lines that ask for packages of the user's indexes and for nothing else.

    They come from a stranger and will be lines of a file that uv reads: there an option could name another index, with
    the user's variables in its address.
    """
    from packaging.requirements import InvalidRequirement, Requirement  # few runs build anything

    for line in lines:
        try:
            plain = Requirement(line).url is None and _MORE_THAN_A_REQUIREMENT.search(line) is None
        except InvalidRequirement:
            plain = False
        if not plain:
            raise LockError(
                f"{archive} cannot be built: it asks for {line!r}",
                details=("expected a package of an index, by name and version (PEP 508)",),
                hint="Choose another version of it, or one that has a wheel.",
            )
    return tuple(line.strip() for line in lines)


def _pyproject(path: Path) -> bytes | None:
    """Return the pyproject.toml of the archive's one folder, None when there is none."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if _is_pyproject(name):
                    with archive.open(name) as source:
                        return _limited(source, path)
        return None
    with tarfile.open(path, "r:*") as tar:
        for member in tar:
            if member.isfile() and _is_pyproject(member.name.removeprefix("./")):
                found = tar.extractfile(member)
                return None if found is None else _limited(found, path)
    return None


def _is_pyproject(name: str) -> bool:
    return name.count("/") == 1 and name.endswith("/pyproject.toml")


def _limited(source: IO[bytes], path: Path) -> bytes:
    content = source.read(_MOST + 1)
    if len(content) > _MOST:
        raise LockError(f"{path.name}: its pyproject.toml is larger than {_MOST >> 20} MiB")
    return content
