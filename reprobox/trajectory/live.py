"""Judges a replay while it runs."""

from __future__ import annotations

from collections.abc import Sequence

from reprobox.runtime import protocol
from reprobox.trajectory.differences import (
    length_divergence,
    loss_divergence,
    order_of,
    step_of,
    tolerated,
)
from reprobox.trajectory.model import Divergence, Tolerance, Trajectory


class LiveComparison:
    """Compares losses and digests as they are recorded, so that a divergence is known when it happens.

    `divergence` stays None while all is well. It never says that a replay is good: `compare` does, at the end. Children
    of the program are left to that: which of them does what may be chance.
    """

    def __init__(self, recorded: Sequence[Trajectory], *, tolerance: Tolerance | None = None) -> None:
        """Compare against `recorded`."""
        known = [one for one in recorded if one.role != protocol.CHILD]
        distinct = len({one.process for one in known}) == len(known)
        self._known = {one.process: one for one in known} if distinct else {}
        self._tolerance = tolerance
        # By process: how many losses and digests were looked at.
        self._seen: dict[int, tuple[int, int]] = {}
        self.divergence: Divergence | None = None

    def recorded(self, process: int) -> Trajectory:
        """Return what the recorded run's process of that number did, one that a divergence names."""
        return self._known[process]

    def look(self, replayed: Trajectory) -> Divergence | None:
        """Look at what is new in one process's trajectory, which grows from call to call.

        Return the first divergence of this replay: the same one ever after, None as long as there is none. Losses
        without a counterpart are passed over when the recorded run was cut off, or has no such process: only the end
        can tell what to make of them.
        """
        known = self._known.get(replayed.process)
        if known is None or replayed.role == protocol.CHILD or self.divergence is not None:
            return self.divergence
        losses, digests = self._seen.get(replayed.process, (0, 0))
        self._seen[replayed.process] = (len(replayed.losses), len(replayed.digests))
        found = [
            one
            for one in (self._loss(known, replayed, losses), self._digest(known, replayed, digests))
            if one is not None
        ]
        if found:
            self.divergence = min(found, key=lambda one: order_of(one.step or 0, one.what))
        return self.divergence

    def _loss(self, known: Trajectory, replayed: Trajectory, start: int) -> Divergence | None:
        for step in range(start, len(replayed.losses)):
            loss = replayed.losses[step]
            if step >= len(known.losses):
                return length_divergence(known.process, None, loss) if known.complete else None
            original = known.losses[step]
            if original != loss and not tolerated(original, loss, self._tolerance):
                return loss_divergence(known.process, original, loss)
        return None

    def _digest(self, known: Trajectory, replayed: Trajectory, start: int) -> Divergence | None:
        if self._tolerance is not None:
            return None
        for place in range(start, min(len(replayed.digests), len(known.digests))):
            one, other = known.digests[place], replayed.digests[place]
            if one == other:
                continue
            # Several optimizers may step in another order than before: the end compares these.
            if len(known.optimizers) > 1 or (one.optimizer_step, one.what) != (other.optimizer_step, other.what):
                return None
            return Divergence(
                what=one.what,
                stream=known.process,
                step=step_of(known.losses, one.optimizer_step, one.what),
                optimizer_step=one.optimizer_step,
                recorded=one.value,
                replayed=other.value,
            )
        return None
