"""Records losses to the bit, optimizer steps, and digests of what they change, without making a GPU wait."""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
import time
import weakref
from typing import Any, Callable

from . import lines, protocol
from .bits import DTYPES, number_of
from .seeding import distributed_rank
from .stream import Stream
from .tracked import Owners, Tracked

FLUSH_SECONDS = 0.2


class Recorder:
    """One process's record. Hooks append entries; now and then those whose bits have arrived are written, in order.

    A failure inside reprobox never reaches the user's program: it becomes a warning in the facts and recording stops.
    """

    def __init__(self, folder: str, digest_every: int = protocol.DEFAULT_DIGEST_EVERY) -> None:
        """Record into `folder`; weights are digested after the first step of an optimizer and then every `digest_every`
        steps, never when that is 0. `root`, to be set, tells the program itself from its children.
        """
        self.root = False
        self._forked = False
        self.data_loaders: list[dict[str, Any]] = []
        self.losses = 0
        self.steps = 0
        # While a CUDA graph is captured nothing may be sent from the device: it would become part of the graph.
        self.capturing = False
        self._folder = folder
        self._digest_every = digest_every
        self._warnings: list[str] = []
        self._torch: Any = None
        self._dtypes: dict[Any, str] = {}
        self._parameters: Any = None
        self._witness: Any = None
        self._reset(Stream(folder))
        os.register_at_fork(after_in_child=self._forget_parent)
        # Not only in the root: the ranks of torchrun and a notebook's kernel are programs of their own.
        atexit.register(self.finish)

    def _reset(self, stream: Stream) -> None:
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._stream = stream
        # Finished lines, or (render, what is known, slots) of those to be made when they are written: what the slots
        # hold may still be on its device.
        self._entries: list[Any] = []
        self._rings: dict[tuple[Any, Any, Any], Any] = {}
        # By id, as long as the optimizer lives.
        self._optimizers: dict[int, Tracked] = {}
        self._tracked: list[Tracked] = []
        self._others: Tracked | None = None
        self._owners = Owners()
        self._batches_before_training: list[Any] = []
        self.losses = self.steps = 0
        self._flushed = time.monotonic()
        self._begun = False
        self._busy = False
        self._broken = False
        self._finished = False
        self._thread = 0
        self._threads: list[Any] = []
        if self._witness is not None:
            self._witness.begin()
            self._witness.steps = 0

    def _forget_parent(self) -> None:
        """In a forked child: what the parent has recorded is the parent's; the child starts a stream of its own."""
        self.root = False
        self._forked = True
        self._warnings = []
        self._reset(Stream(self._folder, self._stream))

    def warn(self, text: str) -> None:
        """Keep a warning for the manifest (once)."""
        if text not in self._warnings:
            self._warnings.append(text)

    def metric(self, name: str, dtype: str, bits: str, step: int | None = None) -> None:
        """Record a metric of the program's own beside the losses so far; `bits` are in hex, big-endian, `step` is the
        program's own, if it gave one.
        """
        line = lines.metric(name, self.losses, step, dtype, bits)
        # Without torch nothing is ever under way, and nothing comes by later to write the entries.
        self.guard(self.emit if "torch" in sys.modules else self._write, line)

    def metric_tensor(self, name: str, value: Any, step: int | None = None) -> None:
        """Record a metric that is a one-element tensor of a floating dtype on a device, without waiting for it."""
        dtype = self._dtypes[value.dtype]
        self.guard(self._later, lines.metric_on_host, (name, self.losses, step, dtype), [value.detach()])

    def attach(self, torch: Any) -> None:
        """Get ready to record; called once torch is there, before the hooks that call this recorder are set."""
        from .unseen import Parameters
        from .witness import Witness

        self._torch = torch
        self._dtypes = {getattr(torch, name): name for name in DTYPES}
        self._witness = Witness(torch, self._digest_every, self)
        self._parameters = Parameters(self._witness.modules)

    def emit(self, entry: Any) -> None:
        """Add a line to the record, or what `under_way` returned."""
        self._entries.append(entry)

    def _write(self, line: str) -> None:
        self._stream.write(self._role(), line)

    def _role(self) -> str:
        """Say what this process is: the program, a rank of a distributed training, or a child of another process."""
        if self.root:
            return protocol.ROOT
        return protocol.CHILD if distributed_rank() is None else protocol.RANK

    def guard(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call one of the methods below, one thread at a time; a failure ends the recording and nothing else."""
        if self._broken:
            return
        try:
            with self._lock:
                if not self._begun:
                    self._begin()
                self._busy = True
                function(*arguments)
                if not self.capturing and time.monotonic() - self._flushed > FLUSH_SECONDS:
                    self._flush(wait=False)
                self._busy = False
        except Exception as error:
            self._broken = True
            self.warn("recording stopped after loss %d: %s: %s" % (self.losses, type(error).__name__, error))

    def _begin(self) -> None:
        self._begun = True
        if not self.root and "multiprocessing.util" in sys.modules:
            # Children of multiprocessing leave by os._exit and never run atexit handlers. Not earlier: a forked child
            # forgets what its parent registered, and anything from before its own code begins.
            sys.modules["multiprocessing.util"].Finalize(None, self.finish, exitpriority=-100)

    def loss(self, value: Any, event: str = "backward", factor: float = 1.0, scale: Any = None) -> None:
        """Record a loss: a tensor, how its gradients were asked for, and what it is known to be scaled by.

        `factor` is a number, `scale` a one-element tensor beside it or None. The bits are copied at once.
        """
        if value.is_meta:
            return
        if self.losses == 0:
            self._training_begins()
        if not self.capturing:
            self._witness.loss_comes()
        if threading.get_ident() != self._thread:
            self._another_thread()
        if value.numel() != 1 or value.is_complex():
            # backward(gradient=...): one number stands for the whole tensor
            value = value.detach()
            value = (self._torch.view_as_real(value) if value.is_complex() else value).double().sum()
        dtype = self._dtypes.get(value.dtype)
        if dtype is None:
            raise TypeError("a loss of dtype %s" % value.dtype)
        known = (self.losses, self.steps, dtype, event, factor)
        self.losses += 1
        if scale is not None:
            self._later(lines.scaled_loss, known, [value.detach(), scale.detach()])
        elif value.is_cpu:
            self._entries.append((lines.loss, (*known, number_of(value)), ()))
        else:
            self._later(lines.loss_on_host, known, [value.detach()])

    def step(self, optimizer: Any, skipped: Any = None) -> None:
        """Record that an optimizer stepped; `skipped` is a one-element tensor that says (not 0) that it did nothing."""
        tracked = self._track(optimizer)
        at = self.steps
        self._entries.append("step\t%d\t%d\n" % (at, tracked.ordinal))
        self.steps += 1
        self._witness.steps = self.steps
        if skipped is not None:
            self._later(lines.skipped, (at, tracked.ordinal), [skipped.detach()])
        tracked.steps += 1
        if tracked.losses == self.losses:
            tracked.blind += 1
        tracked.losses = self.losses
        if self._witness.due(tracked.steps):
            if tracked.changed():
                self._owners.join(tracked, self._witness.modules.name_of)
                self._witness.changed(tracked)
            self._witness.stepped(at, tracked)

    def skip(self, optimizer: Any) -> None:
        """Record that a GradScaler did not let an optimizer step."""
        self._entries.append("skip\t%d\t%d\n" % (self.steps, self._track(optimizer).ordinal))

    def batch(self, batch: Any, loader: int) -> None:
        """Digest what data loader number `loader` gave, now and then."""
        before = len(self._entries)
        self._witness.batch(self.steps, batch, loader)
        if not self.losses and not self.steps:
            # A process that only reads data is not a training, and leaves no record.
            self._batches_before_training += self._entries[before:]
            del self._entries[before:]

    def _another_thread(self) -> None:
        """Notice threads that train in turns: how they take turns is chance."""
        self._thread = threading.get_ident()
        thread = threading.current_thread()
        self._threads = [known for known in self._threads if known.is_alive()]
        if thread not in self._threads:
            self._threads.append(thread)
        elif len(self._threads) > 1:
            self.warn(
                protocol.THREADS + ": the order of their losses is chance, which no replay need repeat; train in one "
                "thread, or in several processes"
            )

    def _training_begins(self) -> None:
        self._parameters.training_begins()
        self._entries += self._batches_before_training
        self._batches_before_training = []

    def _track(self, optimizer: Any) -> Tracked:
        key = id(optimizer)
        tracked = self._optimizers.get(key)
        if tracked is None:
            if not self._tracked:
                self._training_begins()
            if len(self._tracked) >= protocol.MAX_OPTIMIZERS - 1:
                return self._one_of_many(optimizer)
            tracked = self._optimizers[key] = Tracked(len(self._tracked), type(optimizer).__name__)
            self._tracked.append(tracked)
            # The parameters live as long as the optimizer, which holds them anyway. When it goes away before the
            # program ends, as at the end of a function, its finalizer still sees them.
            weakref.finalize(optimizer, self._optimizer_gone, key, tracked, self._pid).atexit = False
        if optimizer.param_groups is not tracked.groups:
            new = not tracked.groups
            tracked.groups = optimizer.param_groups
            if new:
                tracked.changed()
                self._owners.join(tracked, self._witness.modules.name_of)
                self._entries.append(lines.optimizer(tracked.ordinal, tracked.training, tracked.kind))
                self._witness.changed(tracked)
        return tracked

    def _one_of_many(self, optimizer: Any) -> Tracked:
        """Count an optimizer with all beyond the most that a record holds, as of a program that makes one a task."""
        if self._others is None:
            self._others = Tracked(len(self._tracked), "(others)")
            self._others.settled = True
            self._tracked.append(self._others)
            self._entries.append(lines.optimizer(self._others.ordinal, self._others.training, self._others.kind))
            self._entries.append(lines.lost(protocol.FINAL, "more than %d optimizers" % self._others.ordinal))
        self._others.groups = optimizer.param_groups
        return self._others

    def _later(self, render: Callable[..., str], known: tuple[Any, ...], values: list[Any]) -> None:
        self._entries.append(self.under_way(render, known, values))

    def under_way(self, render: Callable[..., str], known: tuple[Any, ...], values: list[Any]) -> Any:
        """Return the entry of `render(*known, *hosts)`, for when these one-element tensors are on the host."""
        from .device_ring import DeviceRing

        slots = []
        for value in values:
            stream = self._torch.cuda.current_stream(value.device) if value.device.type == "cuda" else None
            key = (value.device, value.dtype, stream)
            ring = self._rings.get(key)
            if ring is None:
                ring = self._rings[key] = DeviceRing(self._torch, value.device, value.dtype, stream)
            slots.append(ring.put(value))
        return render, known, slots

    def _optimizer_gone(self, key: int, tracked: Tracked, pid: int) -> None:
        if pid != os.getpid():
            return
        del self._optimizers[key]
        self._settle(tracked)
        self.save()

    def save(self) -> None:
        """Write what has come of a training that is done: a pool may end this process without notice."""
        # What dies with the interpreter dies after the end of the record, and is no part of it.
        if self._finished:
            return
        # Not in the middle of something else, where a garbage collection may have called this.
        if not self._busy and not self.capturing and self._begun and self._lock.acquire(blocking=False):
            try:
                self._flush(wait=True)
            except Exception as error:
                self._broken = True
                self.warn("recording stopped after loss %d: %s: %s" % (self.losses, type(error).__name__, error))
            finally:
                self._lock.release()

    def _settle(self, tracked: Tracked) -> None:
        """Record what an optimizer has arrived at, once."""
        if tracked.settled:
            return
        self._owners.forget(tracked)
        try:
            tracked.settle()
            self._entries.append("final\t%d\t%s\n" % (tracked.ordinal, tracked.digest))
        except Exception as error:
            self._entries.append(lines.lost(protocol.FINAL, "%s: %s" % (type(error).__name__, error)))
            self.warn("final weights were not digested: %s: %s" % (type(error).__name__, error))

    def _flush(self, wait: bool) -> None:
        self._flushed = time.monotonic()
        for ring in self._rings.values():
            ring.send()
        finished: list[str] = []
        ready = 0
        for entry in self._entries:
            if not isinstance(entry, str):
                render, known, slots = entry
                values = [slot.get(wait) for slot in slots]
                if any(value is None for value in values):
                    break
                entry = render(*known, *values)
            finished.append(entry)
            ready += 1
        if finished:
            del self._entries[:ready]
            self._write("".join(finished))

    def finish(self) -> None:
        """Write what is left, the digest of the final weights, and the facts. Called when the process ends."""
        if self._finished or self._pid != os.getpid():
            return
        silent = self._stream.number is None and not self._entries and not self._warnings
        if silent and not self.root and not self._is_a_program_with_torch():
            return  # a child that trained nothing, for instance a data loader's worker
        self._finished = True
        try:
            if self._torch is not None:
                with self._lock:
                    self._settle_all()
                    self._witness.ended(self.losses, bool(self._tracked))
                    self._flush(wait=True)
                self._look_for_the_unseen()
            # A record with a gap has no end: what it lacks was never compared.
            if self._stream.number is not None and not self._broken:
                self._write("end\n")
        except Exception as error:
            self.warn("the record could not be finished: %s: %s" % (type(error).__name__, error))
        self._write_facts()

    def _is_a_program_with_torch(self) -> bool:
        """Say whether this process, which is not the first of the run, could have trained unnoticed: it was started as
        a program, not as a worker, and loaded torch.
        """
        if self._forked or self._torch is None:
            return False
        processes = sys.modules.get("multiprocessing.process")
        return processes is None or processes.parent_process() is None

    def _settle_all(self) -> None:
        """Record what all optimizers optimized; without any, the parameters changed by hand."""
        if not self._tracked and self.losses and self._parameters.changed():
            by_hand = Tracked(0, "-")
            by_hand.groups = [{"params": self._parameters.changed()}]
            self._tracked.append(by_hand)
            self._entries.append(lines.optimizer(0, 0, by_hand.kind))
            self._witness.began(by_hand)
            self._witness.changed(by_hand)
        for tracked in self._tracked:
            self._settle(tracked)

    def _look_for_the_unseen(self) -> None:
        for tracked in self._tracked:
            if tracked.blind:
                self.warn(
                    "%d of %d steps of optimizer %d (%s) were taken without a loss that reprobox could see, for "
                    "instance because a whole training step is compiled into one graph: what is recorded of them is "
                    "their number and the digests of weights"
                    % (tracked.blind, tracked.steps, tracked.ordinal, tracked.kind)
                )
        if not self.losses and not self._tracked:
            count = self._parameters.with_gradients()
            if count:
                self.warn(
                    "%d parameters have gradients, but reprobox saw neither a loss nor an optimizer step: "
                    "this training is not recorded" % count
                )

    def _write_facts(self) -> None:
        from . import facts

        try:
            content = {
                "software": facts.software(),
                "determinism": facts.flags(),
                "gpus": facts.gpus(),
                "data_loaders": self.data_loaders,
                "warnings": self._warnings,
            }
            number = "p%d" % self._pid if self._stream.number is None else "%03d" % self._stream.number
            name = protocol.FACTS_PREFIX + number + protocol.FACTS_SUFFIX
            path = os.path.join(self._folder, name)
            with open(path + ".tmp", "w", encoding="utf-8") as handle:
                json.dump(content, handle)
            os.replace(path + ".tmp", path)
        except Exception as error:
            sys.stderr.write("reprobox: the facts could not be written: %s: %s\n" % (type(error).__name__, error))
