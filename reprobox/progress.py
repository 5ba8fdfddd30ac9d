"""How the core says what it is doing without knowing who listens.

Every long function takes an `Observer`; the default does nothing, the command line passes one that draws.
"""

from __future__ import annotations


class Observer:
    """Receives progress. Every method does nothing here; override those that matter (habit from pip-audit)."""

    def working(self, phase: str, text: str, done: int | None = None, total: int | None = None) -> None:
        """Something that may take over a second goes on: `done` of `total` in the same unit, None when unknown."""

    def finished(self, phase: str, text: str, note: str = "") -> None:
        """One phase is done: `text` is the result in one line, `note` how it was had (for instance `cached`)."""

    def warning(self, text: str) -> None:
        """Something the user should know though the work goes on."""

    def training_started(self) -> None:
        """From here on `output` carries what the training program writes."""

    def training_ended(self) -> None:
        """The program has ended, whichever way, and all of its output was passed on."""

    def output(self, stream: str, data: bytes) -> None:
        """Bytes that the training program wrote to `stream` (`stdout` or `stderr`)."""

    def step(self, done: int, total: int | None, loss: str | None) -> None:
        """The training has recorded `done` losses (of `total` where a manifest tells), the last one `loss`."""
