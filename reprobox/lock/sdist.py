"""A source archive looked into without running anything of it: what it says it needs to be built."""

from __future__ import annotations

import tarfile
import tomllib
import zipfile
import zlib
from pathlib import Path
from typing import IO

from reprobox.errors import LockError

# What a build is to start with where a project says nothing. Source: PEP 517, and pypa/build's own default.
_DEFAULT = ("setuptools>=40.8.0",)
_MOST = 1 << 20


def build_requires(path: Path) -> tuple[str, ...]:
    """Return the requirements that the source archive at `path` gives in `build-system.requires` (PEP 518).

    Raises LockError when the archive or its pyproject.toml cannot be read.
    """
    try:
        text = _pyproject(path)
        table = tomllib.loads(text.decode()).get("build-system") if text is not None else None
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise LockError(f"the source archive {path.name} cannot be read: {error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LockError(f"{path.name}: its pyproject.toml is not valid: {error}") from error
    if table is None:
        return _DEFAULT
    found = table.get("requires") if isinstance(table, dict) else None
    if not isinstance(found, list) or not all(isinstance(line, str) and "\n" not in line for line in found):
        raise LockError(
            f"{path.name}: its pyproject.toml does not say what a build needs",
            details=("expected a list of requirements: build-system.requires (PEP 518)",),
        )
    return tuple(found)


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
