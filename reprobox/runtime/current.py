"""The run that this process is part of, if any: what the explicit API needs to know of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .entropy import Audit
    from .recorder import Recorder
    from .unseeded import Streams


class Run:
    """What the host asked for, and where this process keeps its record."""

    def __init__(self, seed: int, deterministic: bool, recorder: Recorder, streams: Streams, audit: Audit) -> None:
        """Hold what `start.py` has set up."""
        self.seed = seed
        self.deterministic = deterministic
        self.recorder = recorder
        self.streams = streams
        self.audit = audit


run: Run | None = None
