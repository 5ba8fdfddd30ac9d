"""Reads what the entropy audit of a run found (format: `runtime/protocol.py`) and puts it into words."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from reprobox.record.plain import read_objects
from reprobox.runtime import protocol
from reprobox.validation import printable

TABLES = ("entropy", "derived", "own")
_MAX_FINDINGS = 200
_WARNINGS = 10


def read_findings(record: Path, warnings: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Return by table what all processes found, counts added up, as `{what, where, count}` ordered by place.

    What is not of the agreed form is left out; of a whole file `warnings` says so.
    """
    counts: dict[str, Counter[tuple[str, str]]] = {table: Counter() for table in TABLES}
    for content in read_objects(record, protocol.ENTROPY_PREFIX, protocol.ENTROPY_SUFFIX, warnings):
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
