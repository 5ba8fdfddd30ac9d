"""Records the bits of every loss on which backward() is called, and every optimizer step, without making a GPU wait."""

from __future__ import annotations

import atexit
import functools
import json
import os
import struct
import sys
import threading
import time
import weakref
from typing import Any, Callable

from . import facts, protocol
from .device_ring import DeviceRing
from .weights import digest_tensors

FLUSH_SECONDS = 0.2


class Recorder:
    """One process's record. Hooks append entries; now and then those whose bits have arrived are written, in order.

    A failure inside reprobox never reaches the user's program: it becomes a warning in the facts and recording stops.
    """

    def __init__(self, folder: str, root: bool) -> None:
        """Record into `folder`; `root` tells the program itself from its children."""
        self.data_loaders: list[dict[str, Any]] = []
        self._folder = folder
        self._root = root
        self._number: int | None = None
        self._warnings: list[str] = []
        self._lock = threading.Lock()
        self._optimizers: weakref.WeakKeyDictionary[Any, _Tracked] = weakref.WeakKeyDictionary()
        self._reset()
        os.register_at_fork(after_in_child=self._forget_parent)
        if root:
            atexit.register(self.finish)

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._stream: int | None = None
        # Finished lines, or (start of the line, dtype, slot) while the loss is still on its device.
        self._entries: list[Any] = []
        self._rings: dict[tuple[Any, Any], DeviceRing] = {}
        self._losses = 0
        self._steps = 0
        self._tracked: list[_Tracked] = []
        self._flushed = time.monotonic()
        self._in_backward = False
        self._broken = False
        self._finished = False

    def _forget_parent(self) -> None:
        """In a forked child: what the parent has recorded is the parent's; the child starts a stream of its own."""
        self._lock = threading.Lock()
        self._root = False
        self._number = None
        self._optimizers = weakref.WeakKeyDictionary()
        self._reset()

    def warn(self, text: str) -> None:
        """Keep a warning for the manifest (once)."""
        if text not in self._warnings:
            self._warnings.append(text)

    def metric(self, name: str, dtype: str, bits: str) -> None:
        """Record a metric of the program's own beside the losses so far; `bits` are in hex, big-endian."""
        line = "metric\t%s\t%d\t%s\t%s\n" % (name, self._losses, dtype, bits)
        # Without torch nothing is ever under way, and nothing comes by later to write the entries.
        self._guard(self._entries.append if "torch" in sys.modules else self._write, line)

    def attach(self, torch: Any) -> None:
        """Hook into torch: `torch.autograd.backward`, which `Tensor.backward` calls too, and every optimizer's step."""
        original = torch.autograd.backward

        @functools.wraps(original)
        def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            # A backward inside a backward is activation checkpointing at work, not another loss.
            if self._in_backward:
                return original(tensors, *args, **kwargs)
            self._guard(self._record_losses, torch, tensors)
            self._in_backward = True
            try:
                return original(tensors, *args, **kwargs)
            finally:
                self._in_backward = False

        torch.autograd.backward = backward
        # By its module's name: `torch.optim` deletes its attribute `optimizer` once it is loaded.
        sys.modules["torch.optim.optimizer"].register_optimizer_step_post_hook(
            lambda optimizer, args, kwargs: self._guard(self._record_step, optimizer)
        )

    def _guard(self, function: Callable[..., None], *arguments: Any) -> None:
        if self._broken:
            return
        try:
            with self._lock:
                function(*arguments)
                if time.monotonic() - self._flushed > FLUSH_SECONDS:
                    self._flush(wait=False)
        except Exception as error:
            self._broken = True
            self.warn("recording stopped after loss %d: %s: %s" % (self._losses, type(error).__name__, error))

    def _record_losses(self, torch: Any, tensors: Any) -> None:
        for tensor in (tensors,) if isinstance(tensors, torch.Tensor) else tensors:
            value = tensor.detach()
            if value.numel() != 1:
                value = value.double().sum()  # backward(gradient=...) on a whole tensor: one number stands for it
            dtype = str(value.dtype).replace("torch.", "")
            prefix = "loss\t%d\t%d\t%s\t" % (self._losses, self._steps, dtype)
            self._losses += 1
            if value.device.type == "cpu":
                self._entries.append(prefix + bits_of(torch, value, dtype) + "\n")
            else:
                ring = self._rings.get((value.device, value.dtype))
                if ring is None:
                    ring = self._rings[value.device, value.dtype] = DeviceRing(torch, value.device, value.dtype)
                self._entries.append((prefix, dtype, ring.put(value)))

    def _record_step(self, optimizer: Any) -> None:
        tracked = self._optimizers.get(optimizer)
        if tracked is None:
            tracked = self._optimizers[optimizer] = _Tracked(len(self._tracked))
            self._tracked.append(tracked)
            # The parameters live as long as the optimizer, which holds them anyway. When it goes away before the
            # program ends, as at the end of a function, its finalizer still sees them.
            weakref.finalize(optimizer, self._optimizer_gone, tracked, self._pid).atexit = False
        tracked.remember(optimizer)
        self._entries.append("step\t%d\t%d\n" % (self._steps, tracked.ordinal))
        self._steps += 1

    def _optimizer_gone(self, tracked: _Tracked, pid: int) -> None:
        if pid == os.getpid():
            self._settle(tracked)

    def _settle(self, tracked: _Tracked) -> None:
        try:
            tracked.settle()
        except Exception as error:
            self.warn("final weights were not digested: %s: %s" % (type(error).__name__, error))

    def _flush(self, wait: bool) -> None:
        self._flushed = time.monotonic()
        for ring in self._rings.values():
            ring.send()
        torch = sys.modules.get("torch")
        lines: list[str] = []
        ready = 0
        for entry in self._entries:
            if not isinstance(entry, str):
                prefix, dtype, slot = entry
                value = slot.get(wait)
                if value is None:
                    break
                entry = prefix + bits_of(torch, value, dtype) + "\n"
            lines.append(entry)
            ready += 1
        if lines:
            del self._entries[:ready]
            self._write("".join(lines))

    def _write(self, text: str) -> None:
        if self._stream is None:
            self._stream = self._claim()
        data = text.encode()
        while data:
            data = data[os.write(self._stream, data) :]

    def _claim(self) -> int:
        """Open the first free stream; ranks of a distributed job prefer their own number."""
        rank = os.environ.get("RANK", "")
        number = int(rank) if rank.isdigit() else 0
        while True:
            name = "%s%03d%s" % (protocol.STREAM_PREFIX, number, protocol.STREAM_SUFFIX)
            try:
                stream = os.open(
                    os.path.join(self._folder, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644
                )
                break
            except FileExistsError:
                number += 1
        self._number = number
        os.write(stream, protocol.STREAM_HEADER.encode())
        if not self._root and "multiprocessing.util" in sys.modules:
            # Children of multiprocessing leave by os._exit and never run atexit handlers.
            sys.modules["multiprocessing.util"].Finalize(None, self.finish, exitpriority=-100)
        return stream

    def finish(self) -> None:
        """Write what is left, the digest of the final weights, and the facts. Called when the process ends."""
        if self._finished or self._pid != os.getpid():
            return
        if not self._root and self._stream is None and not self._entries:
            return  # a child that trained nothing, for instance a data loader's worker
        self._finished = True
        try:
            weights = None
            torch = sys.modules.get("torch")
            if torch is not None:
                with self._lock:
                    self._flush(wait=True)
                for tracked in self._tracked:
                    self._settle(tracked)
                weights = combined_digest([tracked.digest for tracked in self._tracked])
            if self._stream is not None:
                self._write("end\t%s\n" % (weights or "-"))
        except Exception as error:
            self.warn("the record could not be finished: %s: %s" % (type(error).__name__, error))
        self._write_facts()

    def _write_facts(self) -> None:
        try:
            content = {
                "software": facts.software(),
                "determinism": facts.flags(),
                "gpus": facts.gpus(),
                "data_loaders": self.data_loaders,
                "warnings": self._warnings,
            }
            number = "p%d" % self._pid if self._number is None else "%03d" % self._number
            name = protocol.FACTS_PREFIX + number + protocol.FACTS_SUFFIX
            path = os.path.join(self._folder, name)
            with open(path + ".tmp", "w", encoding="utf-8") as handle:
                json.dump(content, handle)
            os.replace(path + ".tmp", path)
        except Exception as error:
            sys.stderr.write("reprobox: the facts could not be written: %s: %s\n" % (type(error).__name__, error))


class _Tracked:
    """The parameters of one optimizer, numbered as first seen, until their digest is taken."""

    def __init__(self, ordinal: int) -> None:
        self.ordinal = ordinal
        self.digest: str | None = None
        self._groups = 0
        self._parameters: list[Any] = []

    def remember(self, optimizer: Any) -> None:
        if len(optimizer.param_groups) != self._groups:
            self._groups = len(optimizer.param_groups)
            self._parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def settle(self) -> None:
        if self.digest is None:
            self.digest = digest_tensors(self._parameters)
            self._parameters = []


def combined_digest(digests: list[str | None]) -> str | None:
    """Return one digest for the optimizers' digests in order; None when there are none or one is missing."""
    known = [digest for digest in digests if digest is not None]
    if not known or len(known) < len(digests):
        return None
    import hashlib

    return "sha256:" + hashlib.sha256("\n".join(known).encode()).hexdigest()


def bits_of(torch: Any, value: Any, dtype: str) -> str:
    """Return the bits of a one-element CPU tensor in hex, big-endian, NaN payloads included."""
    number = value.item()
    if dtype == "float32":
        if number != number:  # a NaN's payload does not survive the way through a Python float
            return "%08x" % (value.view(torch.int32).item() & 0xFFFFFFFF)
        return struct.pack(">f", number).hex()
    if dtype == "float64":
        return struct.pack(">d", number).hex()
    if dtype in ("bfloat16", "float16"):
        return "%04x" % (value.view(torch.int16).item() & 0xFFFF)
    raise TypeError("a loss of dtype %s" % dtype)
