"""How a program's output and its end travel from the threads that wait for them to the caller of `Execution.pump`."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

# What may lie unread before the reading threads wait. A Docker engine drops what is still unread about two seconds
# after the container's end, so the reader must run far ahead of a slow terminal; the bound keeps a flood out of memory.
CAPACITY = 64 * 1024 * 1024

# After the program's end its output ends too, unless another process still holds the pipe: how long to wait for that.
SILENCE_AFTER_END = 5.0


class Channel:
    """Carries chunks of output and, beside them, the two ends: of the output and of the program.

    Any thread may put; one thread takes. After `abandon` whatever is put is dropped, so that no reader waits for ever.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        """Make an empty channel that holds at most about `capacity` bytes."""
        self._capacity = capacity
        self._changed = threading.Condition()
        self._chunks: deque[tuple[str, bytes]] = deque()
        self._held = 0
        self._abandoned = False
        self.output_ended = False
        self.program_ended = False

    def put(self, stream: str, data: bytes) -> None:
        """Add a chunk of `stream`; wait while the channel is full."""
        if not data:
            return
        with self._changed:
            self._changed.wait_for(lambda: self._abandoned or self._held < self._capacity)
            if self._abandoned:
                return
            self._chunks.append((stream, data))
            self._held += len(data)
            self._changed.notify_all()

    def end_output(self) -> None:
        """Say that nothing more will be put."""
        with self._changed:
            self.output_ended = True
            self._changed.notify_all()

    def end_program(self) -> None:
        """Say that the program has ended; output may still be on its way."""
        with self._changed:
            self.program_ended = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """Say that nobody takes any more."""
        with self._changed:
            self._abandoned = True
            self._chunks.clear()
            self._held = 0
            self._changed.notify_all()

    def take(self, timeout: float) -> tuple[str, bytes] | None:
        """Return the next chunk, or None after `timeout` seconds, or at once when both ends have been reached."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._chunks or (self.output_ended and self.program_ended), max(0.0, timeout)
            )
            if not self._chunks:
                return None
            stream, data = self._chunks.popleft()
            self._held -= len(data)
            self._changed.notify_all()
            return stream, data


def pump(
    channel: Channel,
    output: Callable[[str, bytes], None],
    tick: Callable[[], None],
    interval: float,
    *,
    silence_after_end: float = SILENCE_AFTER_END,
) -> None:
    """Hand the channel's chunks to `output` and call `tick` about every `interval` seconds until both ends are reached.

    Both are called in the caller's thread; what they raise goes through. Output whose end does not come after the
    program's is given up after `silence_after_end` seconds without a chunk.
    """
    next_tick = time.monotonic()
    last_sign = next_tick
    while True:
        now = time.monotonic()
        if now >= next_tick:
            tick()
            now = time.monotonic()
            next_tick = now + interval
        # Read before taking: what was put before the ends is then sure to be seen by this `take` or a later one.
        ended = channel.program_ended
        finished = ended and channel.output_ended
        chunk = channel.take(next_tick - now)
        if chunk is not None:
            output(*chunk)
            last_sign = time.monotonic()
        elif finished:
            return
        elif not ended:
            last_sign = time.monotonic()
        elif time.monotonic() - last_sign > silence_after_end:
            return


def in_background(name: str, work: Callable[[], None]) -> threading.Thread:
    """Start `work` in a thread that does not keep the process alive."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread
