"""What a generator yields, made ahead of its use in a thread of its own.

Unpacking a large file is a chain of two parts that both keep a core busy: inflating and checking it, and hashing and
writing the layer. zlib, hashlib and files let go of the interpreter, so that two threads run on two cores.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def ahead(source: Iterator[T], depth: int) -> Iterator[Iterator[T]]:
    """Give an iterator over `source` that is up to `depth` items ahead of its user; it raises what `source` raises.

    Leaving the context closes `source` and ends the thread, however much was used.
    """
    made: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(depth)
    stopping = threading.Event()

    def put(item: tuple[T] | BaseException | None) -> bool:
        while not stopping.is_set():
            try:
                made.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def make() -> None:
        try:
            for item in source:
                if not put((item,)):
                    return
            put(None)
        except BaseException as error:  # handed to the user of the iterator, whatever it is
            put(error)
        finally:
            if isinstance(source, Generator):
                source.close()

    def taken() -> Iterator[T]:
        while (item := made.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item[0]

    thread = threading.Thread(target=make, name="read-ahead", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        stopping.set()
        thread.join()
