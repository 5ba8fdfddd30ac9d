"""The file in which one process records, and the number that it has in every run of the program."""

from __future__ import annotations

import os
import sys

from . import protocol
from .seeding import distributed_rank

_CLAIMED_VARIABLE = "REPROBOX_CLAIMED"


class Stream:
    """Opened at the first write, so that a process that has nothing to say leaves no file."""

    def __init__(self, folder: str, parent: Stream | None = None) -> None:
        """Write into `folder`; `parent` is the stream of the process that this one was forked from."""
        self.number: int | None = None
        self._folder = folder
        self._file: int | None = None
        # Streams of processes that train beside their parent are numbered after its own.
        trains = parent is not None and parent.number is not None
        self._first_child = 1 if trains or _CLAIMED_VARIABLE in os.environ else 0

    def write(self, role: str, text: str) -> None:
        """Append whole lines; the first time, say what the process is."""
        if self._file is None:
            self._file = self._claim()
            text = "process\t%s\n%s" % (role, text)
        data = text.encode()
        while data:
            data = data[os.write(self._file, data) :]

    def _claim(self) -> int:
        """Open the first free stream, counting from the number that this process has in every run of the program."""
        number = self._preferred()
        while True:
            name = "%s%03d%s" % (protocol.STREAM_PREFIX, number, protocol.STREAM_SUFFIX)
            path = os.path.join(self._folder, name)
            try:
                file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
                break
            except FileExistsError:
                number += 1
        self.number = number
        os.environ[_CLAIMED_VARIABLE] = "1"
        os.write(file, protocol.STREAM_HEADER.encode())
        return file

    def _preferred(self) -> int:
        """Return this process's rank; without one, its place among the children of its parent; else 0."""
        rank = distributed_rank()
        if rank is not None:
            return rank
        processes = sys.modules.get("multiprocessing.process")
        identity = processes.current_process()._identity if processes is not None else ()
        return int(identity[0]) - 1 + self._first_child if identity else 0
