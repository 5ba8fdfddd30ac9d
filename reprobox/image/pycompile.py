"""Compiles Python sources to bytecode; runs inside a container of the base, by the base's own interpreter.

Its text is handed to that interpreter (Python 3.10 or later), so it uses the standard library alone. It reads a folder
of jobs: `NAME.json` lists `[path in the image, bytes]` for each source, `NAME.src` holds the sources one behind the
other; it writes `NAME.pyc`, the bytecode files one behind the other, and last `NAME.sizes`, their lengths (0 where a
source does not compile). No source is imported or run.

The same job gives the same bytes on every machine with this build of Python, whatever else is compiled:

- Which constants two functions share depends on which names other code has interned before (seen in 3.11: a set of
  strings, written once or twice). So every job has a process of its own, forked from one that has compiled nothing.
- Before 3.11 `marshal` writes a set in the order of its hashes (which for None is an address): a source with a constant
  set is left uncompiled there.
"""

from __future__ import annotations

import importlib.util
import json
import marshal
import os
import sys
import warnings
from pathlib import Path
from types import CodeType

# PEP 552: a pyc that is found by its source's name alone and never checked against the source.
_UNCHECKED_HASH = (1).to_bytes(4, "little")


def bytecode(source: bytes, path: str) -> bytes:
    """Return the content of the pyc of `source`, which lies at `path` when it is imported; empty if there is none."""
    try:
        code = compile(source, path, "exec", dont_inherit=True, optimize=0)
        if sys.version_info < (3, 11) and _has_set(code):
            return b""
        body = marshal.dumps(code)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
        # Templates and tests of other Pythons' syntax; the parser calls a nesting that is too deep a MemoryError.
        return b""
    return importlib.util.MAGIC_NUMBER + _UNCHECKED_HASH + importlib.util.source_hash(source) + body


def _has_set(constant: object) -> bool:
    if isinstance(constant, CodeType):
        return any(_has_set(each) for each in constant.co_consts)
    if isinstance(constant, tuple):
        return any(_has_set(each) for each in constant)
    return isinstance(constant, frozenset)


def run_job(listing: Path) -> None:
    """Compile the job that `NAME.json` lists."""
    sizes = []
    with listing.with_suffix(".src").open("rb") as packed, listing.with_suffix(".pyc").open("wb") as out:
        for path, size in json.loads(listing.read_bytes()):
            compiled = bytecode(packed.read(size), path)
            sizes.append(len(compiled))
            out.write(compiled)
    listing.with_suffix(".sizes").write_text(json.dumps(sizes))


def main(folder: Path) -> int:
    """Compile all jobs of the folder, one on each processor at a time; return 1 when one failed."""
    warnings.simplefilter("ignore")
    left = sorted(folder.glob("*.json"), reverse=True)
    processors = len(os.sched_getaffinity(0))
    running = 0
    failed = False
    while left or running:
        if left and running < processors:
            _in_child(left.pop())
            running += 1
            continue
        _, status = os.wait()
        running -= 1
        failed = failed or status != 0
    return int(failed)


def _in_child(listing: Path) -> None:
    if os.fork() == 0:
        status = 1
        try:
            run_job(listing)
            status = 0
        except Exception as error:
            os.write(2, f"{listing.name}: {error!r}\n".encode())
        finally:
            os._exit(status)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
