"""What is digested beside the losses: gradients, weights and random states of optimizers; single tensors by their
names; batches; the state in which modules end.

Losses alone are a weak witness, so these decide about a verdict too; and they say where two runs parted first.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Iterable

from . import lines, protocol
from .batch_digests import tensors_of
from .digests import Digester, combined, random_state
from .metrics import fitted
from .modules import Modules
from .tracked import Tracked

if TYPE_CHECKING:
    from .recorder import Recorder

# A program that makes new modules before each loss would be digested all the time.
_MOST_BEGINNINGS = 64
# Of one kind, so that those of all kinds fit into a record.
_MOST_TENSORS = protocol.MAX_TENSORS // (len(protocol.TENSORS) + 1)


class Witness:
    """Digests, and hands the lines to a recorder. A failure ends the digests of one kind, which the record then says,
    and nothing else.
    """

    def __init__(self, torch: Any, every: int, recorder: Recorder) -> None:
        """Digest after the first step of an optimizer and then every `every` steps; never when that is 0."""
        self._torch = torch
        self._every = every
        self._recorder = recorder
        self._emit = recorder.emit
        self._warn = recorder.warn
        self._digester = Digester(torch)
        self.modules = Modules(torch, recorder.warn)
        self.modules.on_gone = self._gone
        self.steps = 0
        self.begin()

    def begin(self) -> None:
        """Begin a record: what was digested before is another process's."""
        self._lost: set[str] = set()
        self._beginnings = 0
        # By the name of a parameter, its digest before the first loss: written once an optimizer is seen to have it.
        self._initial: dict[str, tuple[int, list[Any]]] = {}
        self._initials = 0
        # By kind, what was written: of states the names, as a later one counts instead of an earlier one.
        self._names: dict[str, set[Any]] = {}
        # By data loader: the optimizer step from which on the next of its batches is digested.
        self._batch_due: dict[int, int] = {}
        # By the name of a root, the optimizer that trains it.
        self._owners: dict[str, int] = {}
        self._states = 0

    def due(self, rounds: int) -> bool:
        """Say whether digests are taken after an optimizer's step of that number."""
        return bool(self._every) and (rounds == 1 or rounds % self._every == 0)

    def loss_comes(self) -> None:
        """Digest the parameters that came up since the last loss, as they are before it. Called before each loss."""
        if not self._every or not self.modules.fresh or protocol.INITIAL in self._lost:
            return
        self._beginnings += 1
        if self._beginnings > _MOST_BEGINNINGS:
            self._lose(protocol.INITIAL, "modules were made before more than %d losses" % _MOST_BEGINNINGS)
            return
        try:
            for name, parameter in self.modules.new_parameters():
                self._initial[name] = (self.steps, self._digester.of([parameter]))
        except Exception as error:
            self._failed(protocol.INITIAL, error)

    def stepped(self, at: int, tracked: Tracked) -> None:
        """Digest what an optimizer has just changed by step number `at` of the process."""
        if "digests" in self._lost:
            return
        first = tracked.steps == 1
        try:
            if first:
                self.began(tracked)
                self._first(at, tracked)
                sums = self._digester.of([each.grad for each in tracked.parameters])
                self._digest(at, protocol.GRADIENTS, tracked.ordinal, 1, sums)
            self._digest(at, protocol.WEIGHTS, tracked.ordinal, tracked.steps, self._digester.of(tracked.parameters))
            state = random_state(self._torch)
            self._emit("digest\t%d\t%s\t%d\t%d\t%s\n" % (at, protocol.RANDOM, tracked.ordinal, tracked.steps, state))
            self.modules.look_for_copies()
        except Exception as error:
            self._failed("digests", error)

    def changed(self, tracked: Tracked) -> None:
        """Watch the modules of an optimizer's parameters, which are new or other ones."""
        if self._every:
            self.modules.watch(tracked.parameters)

    def began(self, tracked: Tracked) -> None:
        """Write the initial digests of an optimizer's parameters. What it does not train may be garbage, which is there
        as long as it is not collected, and that is chance.
        """
        for parameter in tracked.parameters:
            name = self.modules.name_of(parameter) or ""
            if name in self._initial:
                at, sums = self._initial.pop(name)
                self._tensor(protocol.INITIAL, at, tracked.ordinal, name, sums)
                self._initials += 1

    def _first(self, at: int, tracked: Tracked) -> None:
        """Digest the first gradient of each parameter by name."""
        if protocol.GRADIENT in self._lost:
            return
        try:
            for place, parameter in enumerate(tracked.parameters):
                name = self.modules.name_of(parameter)
                if name is not None:
                    self._owners.setdefault(name.partition(".")[0], tracked.ordinal)
                known = name or "%s: tensor %d" % (tracked.kind, place)
                self._tensor(protocol.GRADIENT, at, tracked.ordinal, known, self._digester.of([parameter.grad]))
            if not tracked.parameters:
                self._lose(protocol.GRADIENT, "an optimizer has no parameters")
        except Exception as error:
            self._failed(protocol.GRADIENT, error)

    def batch(self, at: int, batch: Any, loader: int) -> None:
        """Digest what data loader number `loader` gave: at most one batch a step, as often as weights are digested."""
        if not self._every or at < self._batch_due.get(loader, 0):
            return
        rounds = (at + 1) // self._every
        first = loader not in self._batch_due
        self._batch_due[loader] = (rounds + 1) * self._every - 1
        if self._torch.utils.data.get_worker_info() is not None:
            return  # a loader inside another's worker
        try:
            tensors, others = tensors_of(self._torch, batch)
            if others and first:
                what = ", ".join("%d of type %s" % (count, name) for name, count in sorted(others.items()))
                self._warn("batches of data loader %d hold what is not digested: %s" % (loader, what))
            self._digest(at, protocol.BATCH, loader, 0, self._digester.of(tensors))
        except Exception as error:
            self._batch_due[loader] = sys.maxsize
            self._warn("no digests of batches of data loader %d: %s: %s" % (loader, type(error).__name__, error))

    def _gone(self, root: str, entries: list[tuple[str, Any]]) -> None:
        """Digest what a module holds that is about to go."""
        if self._torch.cuda.is_initialized() and self._torch.cuda.is_current_stream_capturing():
            self._lose(protocol.STATE, "%s went while a CUDA graph was captured" % root)
            return
        self._state(root, entries)
        self._recorder.save()

    def _state(self, root: str, entries: Iterable[tuple[str, Any]]) -> None:
        if protocol.STATE in self._lost:
            return
        for name, tensor in entries:
            try:
                sums = self._digester.of([tensor])
                self._tensor(protocol.STATE, self.steps, self._owners.get(root), "%s.%s" % (root, name), sums)
                self._states += 1
            except Exception as error:
                # One odd tensor costs itself alone.
                text = "%s.%s cannot be digested (%s)" % (root, name, type(error).__name__)
                self._emit(lines.lost(protocol.STATE, text))
                self._warn("the state at the end: " + text)

    def ended(self, losses: int, trained: bool) -> None:
        """Digest the state in which the watched modules are, and say of what there is none."""
        if not self._every:
            return
        if trained:
            for root, entries in self.modules.states():
                self._state(root, entries)
            if not self._states:
                self._lose(protocol.STATE, "what was optimized belongs to no module of torch's that is known")
            elif self.modules.beyond:
                self._emit(lines.lost(protocol.STATE, "%d modules beyond the most at one time" % self.modules.beyond))
        if losses and not self._initials:
            self._lose(protocol.INITIAL, "what was trained belongs to no module that was known before the first loss")

    def _digest(self, at: int, what: str, number: int, rounds: int, sums: list[Any]) -> None:
        self._emit(self._entry("digest\t%d\t%s\t%d\t%d\t" % (at, what, number, rounds), sums))

    def _tensor(self, what: str, at: int, optimizer: int | None, name: str, sums: list[Any]) -> None:
        names = self._names.setdefault(what, set())
        names.add(name if what == protocol.STATE else len(names))
        if len(names) > _MOST_TENSORS:
            self._lose(what, "more than %d tensors" % _MOST_TENSORS)
            return
        owner = "-" if optimizer is None else "%d" % optimizer
        self._emit(self._entry("tensor\t%d\t%s\t%s\t%s\t" % (at, what, owner, fitted(name)), sums))

    def _entry(self, start: str, sums: list[Any]) -> Any:
        """Return a line that begins so, or what will be one when the sums have arrived on the host."""
        sizes, *tensors = sums
        if all(each.is_cpu for each in tensors):
            return start + combined(sums) + "\n"
        return self._recorder.under_way(lines.digest, (start, sizes), tensors)

    def _failed(self, what: str, error: Exception) -> None:
        """End the digests of one kind: such as when no memory is left."""
        self._lose(what, "%s: %s" % (type(error).__name__, error))
        reason = "%s: %s" % (type(error).__name__, error)
        self._warn("no more digests (%s) after optimizer step %d: %s" % (what, self.steps, reason))

    def _lose(self, what: str, why: str) -> None:
        if what not in self._lost:
            self._lost.add(what)
            self._emit(lines.lost(what, why))
