"""Keeps losses on the device until a copy to the host has arrived by itself: no hook ever waits for the device."""

from __future__ import annotations

from typing import Any

CAPACITY = 256


class DeviceRing:
    """Collects scalars of one dtype on one device and stream in chunks; each travels in one asynchronous copy."""

    def __init__(self, torch: Any, device: Any, dtype: Any, stream: Any) -> None:
        """Collect for that device and dtype; nothing is allocated before the first value.

        `stream` is the CUDA stream on which the values are made, None elsewhere: the copies follow them there.
        """
        self._torch = torch
        self._device = device
        self._dtype = dtype
        self._stream = stream
        self._chunk: _Chunk | None = None

    def put(self, value: Any) -> _Slot:
        """Copy a one-element tensor into the open chunk, in stream order, and return the slot it will be read from.

        The bits are copied at once, so a loss that the program changes in place later does no harm.
        """
        if self._chunk is None:
            self._chunk = _Chunk(self._torch, self._device, self._dtype, self._stream)
        chunk = self._chunk
        slot = chunk.put(value)
        if chunk.used == CAPACITY:
            self.send()
        return slot

    def send(self) -> None:
        """Start the open chunk's journey to the host, if it holds anything; the next loss opens a new chunk."""
        if self._chunk is not None:
            self._chunk.send()
            self._chunk = None


class _Chunk:
    def __init__(self, torch: Any, device: Any, dtype: Any, stream: Any) -> None:
        self._torch = torch
        self._stream = stream
        self._values: Any = torch.empty(CAPACITY, dtype=dtype, device=device)
        self._host: Any = None
        self._arrived: Any = None
        self.used = 0

    def put(self, value: Any) -> _Slot:
        index = self.used
        self._values[index].copy_(value.reshape(()), non_blocking=True)
        self.used += 1
        return _Slot(self, index)

    def send(self) -> None:
        torch, cuda = self._torch, self._stream is not None
        self._host = torch.empty(CAPACITY, dtype=self._values.dtype, pin_memory=cuda)
        if not cuda:
            # Only CUDA can tell when a copy has arrived; elsewhere the copy itself must wait.
            self._host.copy_(self._values)
            return
        with torch.cuda.stream(self._stream):
            self._host.copy_(self._values, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record(self._stream)

    def ready(self, wait: bool) -> bool:
        if self._host is None:
            return False
        if self._arrived is not None:
            if wait:
                self._arrived.synchronize()
            elif not self._arrived.query():
                return False
            self._arrived = None
            self._values = None
        return True

    def read(self, index: int) -> Any:
        return self._host[index]


class _Slot:
    def __init__(self, chunk: _Chunk, index: int) -> None:
        self._chunk = chunk
        self._index = index

    def get(self, wait: bool) -> Any:
        """Return the value as a host tensor, or None while it is under way (never when `wait`)."""
        return self._chunk.read(self._index) if self._chunk.ready(wait) else None
