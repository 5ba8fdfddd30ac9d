"""Reads what the entropy audit of a run found (format: `runtime/protocol.py`) and puts it into words."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

from reprobox.runtime import protocol
from reprobox.validation import printable

TABLES = ("entropy", "derived", "own")
_MAX_BYTES = 1_000_000
_MAX_FINDINGS = 200
_WARNINGS = 10


def read_findings(record: Path) -> dict[str, list[dict[str, Any]]]:
    """Return by table what all processes found, counts added up, as `{what, where, count}` ordered by place.

    The files are written by the training program: what is not of the agreed form is left out.
    """
    counts: dict[str, Counter[tuple[str, str]]] = {table: Counter() for table in TABLES}
    for path in sorted(record.glob(f"{protocol.ENTROPY_PREFIX}*{protocol.ENTROPY_SUFFIX}")):
        content = read_object(path)
        for table in TABLES:
            rows = content.get(table)
            for row in rows[:_MAX_FINDINGS] if isinstance(rows, list) else ():
                match row:
                    case {"what": str(what), "where": str(where), "count": int(count)} if 0 < count < 2**53:
                        counts[table][printable(where, 300), printable(what, 200)] += count
    return {
        table: [
            {"what": what, "where": where, "count": count}
            for (where, what), count in sorted(found.items())[:_MAX_FINDINGS]
        ]
        for table, found in counts.items()
    }


def warnings_of(findings: list[dict[str, Any]]) -> list[str]:
    """Return a sentence for each finding, and one for those beyond a screenful."""
    texts = [
        f"{found['where']} draws on the outside world: {found['what']}"
        + (f" ({found['count']} times)" if found["count"] > 1 else "")
        + "; a replay may differ"
        for found in findings[:_WARNINGS]
    ]
    if len(findings) > _WARNINGS:
        texts.append(f"{len(findings) - _WARNINGS} more places draw on the outside world; see determinism.entropy")
    return texts


def open_plain(path: Path) -> BinaryIO:
    """Open a file of a record, which the program may have written, if it is a plain one: a link could lead out of the
    folder, a pipe would never end. Raises OSError.
    """
    handle = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
        handle.close()
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    return handle


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in one file of a record, which the program may have written; `{}` where there is none."""
    try:
        with open_plain(path) as handle:
            content = json.loads(handle.read(_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
