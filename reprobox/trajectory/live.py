"""Judges a replay while it runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reprobox.trajectory.divergences import (
    digest_divergence,
    digest_values,
    length_divergence,
    loss_divergence,
    place_of,
    tolerated,
    turn,
)
from reprobox.trajectory.model import Digest, Divergence, Loss, Tolerance, Trajectory


class LiveComparison:
    """Compares losses and digests as they are recorded, so that a replay can be stopped at the first divergence.

    `divergence` stays None while all is well; `differing` is the first that differs at all, which under a
    tolerance need not be a divergence; `steps_compared` counts the losses looked at. It never says that a replay is
    good: `compare` does, at the end.
    """

    def __init__(self, recorded: Sequence[Trajectory], *, tolerance: Tolerance | None = None) -> None:
        """Compare against `recorded`."""
        self._recorded = recorded
        processes = [one.process for one in recorded]
        distinct = len(set(processes)) == len(processes)
        self._streams = {process: at for at, process in enumerate(processes if distinct else range(len(processes)))}
        self._digests = [digest_values(one) for one in recorded]
        self._tolerance = tolerance
        self.divergence: Divergence | None = None
        self.differing: Divergence | None = None
        self.steps_compared = 0

    @property
    def steps_recorded(self) -> int:
        """How many losses the recorded run has, over all streams."""
        return sum(len(one.losses) for one in self._recorded)

    def feed(self, process: int, losses: Iterable[Loss], digests: Iterable[Digest] = ()) -> Divergence | None:
        """Take in newly recorded losses and digests of one process (as `StreamTail.news` gives them).

        Return the first divergence of this replay: the same one ever after, None as long as there is none. Losses
        without a counterpart are passed over when the recorded run was cut off, or has no such stream: only the end
        can tell what to make of them.
        """
        stream = self._streams.get(process)
        if stream is None:
            return self.divergence
        # As they happened.
        records: list[tuple[int, int, Loss | Digest]] = [(loss.optimizer_step, 0, loss) for loss in losses]
        records += [(digest.optimizer_step, turn(digest), digest) for digest in digests]
        for _, _, record in sorted(records, key=lambda one: one[:2]):
            if self.divergence is not None:
                break
            if isinstance(record, Loss):
                self._take_loss(stream, record)
            else:
                self._take_digest(stream, record)
        return self.divergence

    def _take_digest(self, stream: int, digest: Digest) -> None:
        value = self._digests[stream].get(place_of(digest))
        if value is not None and value != digest.value:
            difference = digest_divergence(stream, self._recorded[stream], value, digest)
            self.differing = self.differing or difference
            if self._tolerance is None:
                self.divergence = difference

    def _take_loss(self, stream: int, loss: Loss) -> None:
        known = self._recorded[stream]
        if loss.step < len(known.losses):
            self.steps_compared += 1
            original = known.losses[loss.step]
            if original != loss:
                difference = loss_divergence(stream, original, loss)
                self.differing = self.differing or difference
                if not tolerated(original, loss, self._tolerance):
                    self.divergence = difference
        elif known.complete:
            self.divergence = length_divergence(stream, None, loss)
