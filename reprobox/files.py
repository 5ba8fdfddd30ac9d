"""Files written so that nobody ever sees half of one, and read a piece at a time."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from reprobox.digests import PREFIX, sha256_of_file

CHUNK = 1 << 20


class Output:
    """A file that is being written under a temporary name; its SHA-256 is taken on the way.

    `target` is where it will lie, and may be changed until it is complete: what is called by its content gets its name
    last.
    """

    def __init__(self, target: Path, temporary: Path, file: BinaryIO) -> None:
        """Write to `file`, which lies at `temporary` now and will lie at `target`."""
        self.target = target
        self.size = 0
        self._temporary = temporary
        self._file = file
        self._by_hand = False
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Write what comes next; return its length. Raises OSError."""
        self._hash.update(data)
        self.size += len(data)
        return self._file.write(data)

    def writelines(self, chunks: Iterable[bytes]) -> None:
        """Write one piece after the other. Raises OSError."""
        for chunk in chunks:
            self.write(chunk)

    def restart(self) -> None:
        """Forget what was written and begin anew. Raises OSError."""
        self._file.seek(0)
        self._file.truncate()
        self.size = 0
        self._hash = hashlib.sha256()

    @property
    def file(self) -> BinaryIO:
        """The file itself, for who has to go back in it: the digest is then taken by reading all of it again."""
        self._by_hand = True
        return self._file

    @property
    def sha256(self) -> str:
        """The hex digits of what was written."""
        if not self._by_hand:
            return self._hash.hexdigest()
        self._file.flush()
        return sha256_of_file(self._temporary)

    @property
    def digest(self) -> str:
        """The digest of what was written."""
        return PREFIX + self.sha256


@contextlib.contextmanager
def writing(path: Path, *, mode: int = 0o666, sync: bool = True) -> Iterator[Output]:
    """Give a file to write; when the context ends well, it lies at `path`, in place of whatever was there.

    Until then, and for good when the context is left by an exception, nothing is at `path`. `mode` is the file's from
    its first moment, less the umask. `sync` waits until the disk has it: what is verified whenever it is used, as all
    in the cache is, need not wait. Folders above it are made. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "r+b") as file:
            out = Output(path, temporary, file)
            yield out
            if sync:
                file.flush()
                os.fsync(descriptor)
        temporary.replace(out.target)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | Iterable[bytes], *, sync: bool = True) -> None:
    """Write `content`, or its pieces, to `path` (see `writing`)."""
    with writing(path, sync=sync) as out:
        out.writelines((content,) if isinstance(content, bytes) else content)


def read_chunks(source: BinaryIO, size: int = CHUNK) -> Iterator[bytes]:
    """Yield what is left in `source`, at most `size` bytes at a time."""
    while chunk := source.read(size):
        yield chunk


def file_chunks(path: Path) -> Iterator[bytes]:
    """Yield the content of a file. Raises OSError."""
    with path.open("rb") as source:
        yield from read_chunks(source)
