"""Reads what the runtime recorded, once whole or again and again while it grows (format: `runtime/protocol.py`).

The record folder is written by the training program, so nothing in it is trusted: links and special files are not
opened, lines are bounded, and a damaged line ends a stream there instead of failing the run that made it.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from reprobox.runtime import protocol
from reprobox.runtime.metrics import NAME
from reprobox.trajectory.bits import WIDTHS, decimal
from reprobox.trajectory.codec import DIGESTED, EVENTS, is_scale
from reprobox.trajectory.model import Digest, Loss, Trajectory

_CHUNK = 1 << 20
_LONGEST_LINE = 1 << 16
_MOST_METRICS = 1000
_STREAM_NAME = re.compile(re.escape(protocol.STREAM_PREFIX) + r"(\d{3,9})" + re.escape(protocol.STREAM_SUFFIX))
_HEX = {dtype: re.compile(rf"[0-9a-f]{{{2 * width}}}") for dtype, width in WIDTHS.items()}
_COUNT = re.compile(r"\d{1,15}")
_DIGEST = re.compile(r"[0-9a-f]{16}")
_WEIGHTS = re.compile(r"(sha256:)?[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class News:
    """What one process has recorded since it was last looked at."""

    process: int
    losses: tuple[Loss, ...]
    digests: tuple[Digest, ...]


class _Stream:
    """Follows one stream file as it grows.

    `losses` and `digests` hold all so far, `damage` says in one line why the rest of the file is not read, if so;
    `complete` is True once the process said `end`.
    """

    def __init__(self, path: Path, number: int) -> None:
        """Remember where to read the stream of process `number`; the file need not exist yet."""
        self.path = path
        self.number = number
        self.losses: list[Loss] = []
        self.digests: list[Digest] = []
        self.optimizer_steps = 0
        self.skipped_steps = 0
        self.weights: str | None = None
        self.complete = False
        self.damage: str | None = None
        self.metrics: dict[str, str] = {}
        self._offset = 0
        self._half = b""
        self._line = 0

    def read(self) -> News:
        """Return what was written since the last call. Costs what was appended, however long the stream is."""
        losses, digests = len(self.losses), len(self.digests)
        descriptor = self._open() if self.damage is None else None
        if descriptor is not None:
            with os.fdopen(descriptor, "rb") as handle:
                handle.seek(self._offset)
                while self.damage is None and (chunk := handle.read(_CHUNK)):
                    self._offset += len(chunk)
                    self._take(chunk)
        return News(process=self.number, losses=tuple(self.losses[losses:]), digests=tuple(self.digests[digests:]))

    def trajectory(self) -> Trajectory:
        """Return everything read so far. A damaged stream is not complete."""
        complete = self.complete and self.damage is None
        return Trajectory(
            losses=tuple(self.losses),
            optimizer_steps=self.optimizer_steps,
            weights=self.weights if complete else None,
            metrics=dict(self.metrics),
            complete=complete,
            damage=self.damage,
            process=self.number,
            skipped_steps=self.skipped_steps,
            digests=tuple(self.digests),
        )

    def _open(self) -> int | None:
        """Open the file if it is a plain one: a link could lead out of the folder, a pipe would never end."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            self.damage = f"{self.path.name} cannot be read: {error.strerror}"
            return None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            self.damage = f"{self.path.name} is not a plain file"
            return None
        return descriptor

    def _take(self, chunk: bytes) -> None:
        lines = (self._half + chunk).split(b"\n")
        self._half = lines.pop()
        for raw in lines:
            self._line += 1
            problem = self._record(raw)
            if problem:
                self.damage = f"{self.path.name}, line {self._line}: {problem}"
                return
        if len(self._half) > _LONGEST_LINE:
            self.damage = f"{self.path.name}, line {self._line + 1}: longer than {_LONGEST_LINE} bytes"

    def _record(self, raw: bytes) -> str | None:
        """Take in one whole line; return what is wrong with it, if anything."""
        if len(raw) > _LONGEST_LINE:
            return f"longer than {_LONGEST_LINE} bytes"
        try:
            fields = raw.decode("utf-8").split("\t")
        except UnicodeDecodeError:
            return "not UTF-8"
        if self._line == 1:
            return _header_problem(fields)
        if self.complete:
            return "a record after the end"
        if fields[0] == "loss":
            return self._loss(fields)
        if fields[0] == "metric":
            return self._metric(fields)
        if fields[0] == "step":
            if len(fields) != 3 or not _COUNT.fullmatch(fields[1]):
                return "not a step record"
            self.optimizer_steps += 1
        elif fields[0] == "skip":
            if len(fields) != 3 or not _COUNT.fullmatch(fields[1]):
                return "not a skip record"
            self.skipped_steps += 1
        elif fields[0] == "digest":
            return self._digest(fields)
        elif fields[0] == "end":
            if len(fields) != 2 or not (fields[1] == "-" or _WEIGHTS.fullmatch(fields[1])):
                return "not an end record"
            self.weights = None if fields[1] == "-" else "sha256:" + fields[1].removeprefix("sha256:")
            self.complete = True
        return None

    def _metric(self, fields: list[str]) -> str | None:
        if len(fields) != 5 or not NAME.fullmatch(fields[1]) or not _COUNT.fullmatch(fields[2]):
            return "not a metric record"
        _, name, _, dtype, bits = fields
        if dtype not in WIDTHS or not _HEX[dtype].fullmatch(bits):
            return f"{bits[:40]!r} are not the bits of a {dtype[:40]}"
        if name not in self.metrics and len(self.metrics) >= _MOST_METRICS:
            return f"more than {_MOST_METRICS} metrics"
        self.metrics[name] = decimal(bits, dtype)
        return None

    def _loss(self, fields: list[str]) -> str | None:
        if len(fields) not in (5, 7) or not (_COUNT.fullmatch(fields[1]) and _COUNT.fullmatch(fields[2])):
            return "not a loss record"
        _, step, optimizer_step, dtype, bits, event, scale = [*fields, "backward", "1"][:7]
        if dtype not in WIDTHS:
            return f"unknown dtype {dtype[:40]!r}"
        if not _HEX[dtype].fullmatch(bits):
            return f"{bits[:40]!r} are not the bits of a {dtype}"
        if event not in EVENTS or not is_scale(scale):
            return f"unknown event {event[:40]!r} or scale {scale[:40]!r}"
        if int(step) != len(self.losses):
            return f"loss {step} where loss {len(self.losses)} was expected"
        if self.losses and int(optimizer_step) < self.losses[-1].optimizer_step:
            return f"optimizer step {optimizer_step} after {self.losses[-1].optimizer_step}"
        self.losses.append(
            Loss(step=int(step), optimizer_step=int(optimizer_step), dtype=dtype, bits=bits, event=event, scale=scale)
        )
        return None

    def _digest(self, fields: list[str]) -> str | None:
        if len(fields) != 5 or not (_COUNT.fullmatch(fields[1]) and _COUNT.fullmatch(fields[3])):
            return "not a digest record"
        _, optimizer_step, what, optimizer, value = fields
        if what not in DIGESTED or not _DIGEST.fullmatch(value):
            return f"not the digest of {', '.join(DIGESTED)}"
        if self.digests and int(optimizer_step) < self.digests[-1].optimizer_step:
            return f"the digest of optimizer step {optimizer_step} after {self.digests[-1].optimizer_step}"
        self.digests.append(
            Digest(optimizer_step=int(optimizer_step), what=what, optimizer=int(optimizer), value=value)
        )
        return None


class StreamTail:
    """Follows all streams of a record folder while they grow, also those of processes that begin later."""

    def __init__(self, record: Path) -> None:
        """Remember the folder; it need not exist yet."""
        self._record = record
        self._streams: dict[int, _Stream] = {}

    def news(self) -> tuple[News, ...]:
        """Return what was written since the last call, by process; nothing where nothing is new.

        Costs as much as what was appended, however long the streams are.
        """
        for number, path in _stream_files(self._record):
            self._streams.setdefault(number, _Stream(path, number))
        found = (self._streams[number].read() for number in sorted(self._streams))
        return tuple(news for news in found if news.losses or news.digests)

    def trajectories(self) -> tuple[Trajectory, ...]:
        """Return everything read so far, one Trajectory a stream, by number."""
        return tuple(self._streams[number].trajectory() for number in sorted(self._streams))


def read_streams(record: Path) -> tuple[Trajectory, ...]:
    """Return one Trajectory a stream in the record folder, by number; nothing when nothing was recorded.

    Records of unknown kinds are passed over, a last line without its newline is not read. A damaged line ends its
    stream there: the losses before it are kept, the trajectory is not complete, and its `damage` names file, line and
    reason.
    """
    tail = StreamTail(record)
    tail.news()
    return tail.trajectories()


def _stream_files(record: Path) -> list[tuple[int, Path]]:
    """Return number and path of every stream file, by number."""
    try:
        names = [path.name for path in record.iterdir()]
    except FileNotFoundError:
        return []
    matches = [match for name in names if (match := _STREAM_NAME.fullmatch(name))]
    return sorted((int(match[1]), record / match[0]) for match in matches)


def _header_problem(fields: list[str]) -> str | None:
    kind, version = protocol.STREAM_HEADER.rstrip("\n").split("\t")
    if fields == [kind, version]:
        return None
    if len(fields) == 2 and fields[0] == kind:
        return f"stream version {fields[1][:20]!r}, this reprobox reads {version}"
    return "not a reprobox stream"
