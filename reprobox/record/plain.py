"""Opens files of a record folder warily."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

# Of one file with facts or findings, and of so many such files. A training of a thousand ranks is an honest one.
MAX_BYTES = 4_000_000
MAX_FILES = 2000
# As many names in the folder are looked at: a program can make millions.
_MAX_NAMES = 100_000


def open_plain(path: Path) -> BinaryIO:
    """Open a file of a record, which the program may have written, if it is a plain one: a link could lead out of the
    folder, a pipe would never end. Raises OSError.
    """
    handle = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
        handle.close()
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    return handle


def read_object(path: Path) -> Mapping[str, Any]:
    """Return the JSON object in one file of a record. Raises ValueError, in words, where there is none."""
    try:
        with open_plain(path) as handle:
            text = handle.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES} bytes")
        content = json.loads(text)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except json.JSONDecodeError as error:
        raise ValueError("not JSON") from error
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    return content


def read_objects(record: Path, prefix: str, suffix: str, warnings: list[str]) -> list[Mapping[str, Any]]:
    """Return the JSON objects of all files of one kind, by name; what is none is left out with a warning."""
    found = []
    names = names_in(record, re.escape(prefix) + r"[A-Za-z0-9-]{1,40}" + re.escape(suffix))
    if len(names) > MAX_FILES:
        warnings.append(f"{len(names)} files {prefix}*{suffix} in the record: only {MAX_FILES} were read")
    for name in names[:MAX_FILES]:
        try:
            found.append(read_object(record / name))
        except ValueError as error:
            warnings.append(f"{name} was left out of the record: {error}")
    return found


def names_in(record: Path, pattern: str) -> list[str]:
    """Return, sorted, the names in the record folder that match a regular expression as a whole."""
    matching = re.compile(pattern)
    try:
        with os.scandir(record) as entries:
            return sorted(
                entry.name for entry in itertools.islice(entries, _MAX_NAMES) if matching.fullmatch(entry.name)
            )
    except OSError:
        return []


def entries(value: Any) -> list[dict[str, Any]]:
    """Return the mappings in what should be a list of them, and whose form nobody promises."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
