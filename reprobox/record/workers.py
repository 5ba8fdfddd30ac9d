"""Warns of data loaders whose workers, or epochs, start their generators from one and the same state.

They then draw the same augmentation. What the workers told stands in files of the record (`runtime/protocol.py`), which
the training program writes: what is not of the agreed form is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from reprobox.record.plain import read_objects
from reprobox.runtime import protocol
from reprobox.validation import printable


@dataclass(frozen=True)
class _Start:
    """One worker's start: on which rank, in which epoch (by its base seed), and the state of each generator."""

    rank: int
    epoch: str
    worker: int
    states: Mapping[str, str]


def warnings_of_workers(record: Path, places: Mapping[str, str], warnings: list[str]) -> list[str]:
    """Return a sentence for each generator that two workers of an epoch, or two epochs, started from one state.

    `places` says by base seed where the data loader was made that drew it. Of a file that is left out `warnings` says
    so.
    """
    starts: dict[str, list[_Start]] = {}
    for start in _starts(record, warnings):
        if start.epoch in places:
            starts.setdefault(places[start.epoch], []).append(start)
    return [text for place in sorted(starts) for text in _equal_states(place, starts[place])]


def _equal_states(place: str, starts: list[_Start]) -> Iterator[str]:
    for generator in sorted({name for start in starts for name in start.states}):
        groups: dict[tuple[int, str], set[tuple[str, int]]] = {}
        for start in starts:
            if generator in start.states:
                groups.setdefault((start.rank, start.states[generator]), set()).add((start.epoch, start.worker))
        # Two workers of one epoch, or one worker in two epochs: more pairs than there are epochs, or than workers.
        if any(len({epoch for epoch, _ in group}) < len(group) for group in groups.values()):
            same = "workers"
        elif any(len({worker for _, worker in group}) < len(group) for group in groups.values()):
            same = "epochs"
        else:
            continue
        yield (
            f"{same} of the data loader made at {place} draw the same numbers from {generator}, because they start it "
            "from the same state; a worker_init_fn that sets a seed should derive it from torch.initial_seed()"
        )


def _starts(record: Path, warnings: list[str]) -> Iterator[_Start]:
    for content in read_objects(record, protocol.WORKER_PREFIX, protocol.WORKER_SUFFIX, warnings):
        match content:
            case {"base_seed": str(base), "worker": int(worker), "rank": int(rank), "states": dict(states)}:
                known = {str(name): state for name, state in states.items() if isinstance(state, str)}
                yield _Start(rank, base, worker, {printable(name, 60): state for name, state in known.items()})
