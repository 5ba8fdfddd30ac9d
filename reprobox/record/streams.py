"""Reads the streams of a record, once whole or again and again while they grow.

Lines are bounded, and a damaged line ends a stream there instead of failing the run that made it: what stands before it
is kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from reprobox.record.plain import names_in, open_plain
from reprobox.runtime import protocol
from reprobox.runtime.protocol import EVENTS, ROLES, TENSORS, WIDTHS
from reprobox.trajectory.codec import SCALE_PATTERN
from reprobox.trajectory.model import NO_STEP, Digests, Losses, Optimizer, Series, TensorDigest, Trajectory
from reprobox.validation import printable

_CHUNK = 1 << 20
_LONGEST_LINE = 1 << 16
_MOST_STREAMS = 2000
# Runs of them are kept as texts.
_MOST_SCALES = 100_000
_NAME = re.compile(re.escape(protocol.STREAM_PREFIX) + r"(\d{3,9})" + re.escape(protocol.STREAM_SUFFIX))

_COUNT = r"(\d{1,15})"
_BITS = f"({'|'.join(WIDTHS)})\t([0-9a-f]{{4,16}})"
_WORD = r"([!-~]{1,60})"
_TEXT = r"([^\t]{1,800})"
_LONGEST_NAME = 200


def _line(*fields: str) -> re.Pattern[bytes]:
    return re.compile("\t".join(fields).encode())


_PROCESS = _line("process", f"({'|'.join(ROLES)})")
_LOSS = _line("loss", _COUNT, _COUNT, f"{_BITS}(?:\t({'|'.join(EVENTS)})\t({SCALE_PATTERN}))?")
_OPTIMIZER = _line("optimizer", _COUNT, _COUNT, _WORD)
_STEP = _line("step", _COUNT, _COUNT)
_SKIP = _line("skip", _COUNT, _COUNT)
_DIGEST = _line("digest", _COUNT, r"([a-z]{1,30})", _COUNT, _COUNT, r"([0-9a-f]{16})")
_TENSOR = _line("tensor", _COUNT, f"({'|'.join(TENSORS)})", r"(\d{1,15}|-)", _TEXT, r"([0-9a-f]{16})")
_METRIC = _line("metric", _TEXT, _COUNT, r"(-?\d{1,15}|-)", _BITS)
_FINAL = _line("final", _COUNT, r"(sha256:[0-9a-f]{64})")
_LOST = _line("lost", r"([a-z]{1,30})", r"([^\t]{1,300})")
_END = _line("end")


@dataclass(frozen=True, kw_only=True)
class News:
    """How far one process has recorded since it was last looked at: what is new begins at these places of its
    `trajectory`, which goes on growing.
    """

    process: int
    losses: int
    digests: int
    trajectory: Trajectory


@dataclass
class _Seen:
    """An optimizer so far."""

    training: int
    kind: str
    steps: int = 0
    skipped: int = 0
    first: int | None = None
    last: int | None = None
    weights: str | None = None


class _Damaged(Exception):
    """A line is not of the agreed form; says in one line why."""


@dataclass
class _Stream:
    """Follows one stream file as it grows. `damage` says in one line why the rest of the file is not read, if so;
    `complete` is True once the process said `end`.
    """

    path: Path
    number: int
    role: str = protocol.ROOT
    losses: Losses = field(default_factory=Losses)
    digests: Digests = field(default_factory=Digests)
    tensors: list[TensorDigest] = field(default_factory=list)
    metrics: dict[str, Series] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    optimizers: list[_Seen] = field(default_factory=list)
    optimizer_steps: int = 0
    skipped_steps: int = 0
    complete: bool = False
    damage: str | None = None
    _offset: int = 0
    _half: bytes = b""
    _line: int = 0
    _logged: int = 0
    _states: dict[str, int] = field(default_factory=dict)
    _scales: dict[str, str] = field(default_factory=dict)

    def read(self) -> tuple[int, int]:
        """Take in what was written since the last call; return how many losses and digests there were before. Costs
        what was appended, however long the stream is.
        """
        before = len(self.losses), len(self.digests)
        if self.damage is not None:
            return before
        try:
            with open_plain(self.path) as handle:
                handle.seek(self._offset)
                while self.damage is None and (chunk := handle.read(_CHUNK)):
                    self._offset += len(chunk)
                    self._take(chunk)
        except FileNotFoundError:
            pass
        except OSError as error:
            self.damage = f"{self.path.name} cannot be read: {error.strerror}"
        return before

    def trajectory(self) -> Trajectory:
        """Return everything read so far; its columns go on growing. A damaged stream is not complete."""
        return Trajectory(
            losses=self.losses,
            optimizer_steps=self.optimizer_steps,
            optimizers=tuple(
                Optimizer(
                    training=one.training,
                    kind=one.kind,
                    steps=one.steps,
                    skipped_steps=one.skipped,
                    first_step=one.first,
                    last_step=one.last,
                    # What stands in a damaged record is not taken for an end.
                    weights=one.weights if self.damage is None else None,
                )
                for one in self.optimizers
            ),
            digests=self.digests,
            tensors=tuple(self.tensors),
            metrics=self.metrics,
            missing=dict(self.missing),
            complete=self.complete and self.damage is None,
            damage=self.damage,
            process=self.number,
            role=self.role,
            skipped_steps=self.skipped_steps,
        )

    def _take(self, chunk: bytes) -> None:
        lines = (self._half + chunk).split(b"\n")
        self._half = lines.pop()
        try:
            for raw in lines:
                self._line += 1
                self._record(raw)
            if len(self._half) > _LONGEST_LINE:
                self._line += 1
                raise _Damaged(f"longer than {_LONGEST_LINE} bytes")
        except _Damaged as error:
            self.damage = f"{self.path.name}, line {self._line}: {error}"

    def _record(self, raw: bytes) -> None:
        """Take in one whole line. Raises _Damaged."""
        kind = raw[: raw.find(b"\t")] if b"\t" in raw else raw
        if self._line == 1:
            _check_header(raw)
        elif self.complete:
            raise _Damaged("a record after the end")
        elif len(raw) > _LONGEST_LINE:
            raise _Damaged(f"longer than {_LONGEST_LINE} bytes")
        elif (reader := _READERS.get(kind)) is not None:
            pattern, take = reader
            match = pattern.fullmatch(raw)
            if match is None:
                raise _Damaged(f"not a record of the kind {kind.decode()}: {printable(raw.decode(errors='replace'))}")
            take(self, match)

    def _process(self, match: re.Match[bytes]) -> None:
        self.role = match[1].decode()

    def _loss(self, match: re.Match[bytes]) -> None:
        step, at, dtype, bits, event, scale = match.groups()
        if int(step) != len(self.losses):
            raise _Damaged(f"loss {int(step)} where loss {len(self.losses)} was expected")
        steps = self.losses.optimizer_steps
        if steps and int(at) < steps[-1]:
            raise _Damaged(f"optimizer step {int(at)} after {steps[-1]}")
        if len(self.losses) >= protocol.MAX_LOSSES:
            raise _Damaged(f"more than {protocol.MAX_LOSSES} losses")
        if event is None:
            self.losses.append(int(at), *_number(dtype, bits))
            return
        text = scale.decode()
        if text not in self._scales and len(self._scales) >= _MOST_SCALES:
            raise _Damaged(f"more than {_MOST_SCALES} scales")
        text = self._scales.setdefault(text, text)
        self.losses.append(int(at), *_number(dtype, bits), event.decode(), text)

    def _optimizer(self, match: re.Match[bytes]) -> None:
        number, training = int(match[1]), int(match[2])
        if number != len(self.optimizers) or training > number:
            raise _Damaged(f"optimizer {number} of training {training}, where {len(self.optimizers)} was expected")
        if number >= protocol.MAX_OPTIMIZERS:
            raise _Damaged(f"more than {protocol.MAX_OPTIMIZERS} optimizers")
        self.optimizers.append(_Seen(training, match[3].decode()))

    def _step(self, match: re.Match[bytes]) -> None:
        at, optimizer = int(match[1]), self._known(match[2])
        if at != self.optimizer_steps:
            raise _Damaged(f"step {at} where step {self.optimizer_steps} was expected")
        self.optimizer_steps += 1
        optimizer.steps += 1
        optimizer.first = at if optimizer.first is None else optimizer.first
        optimizer.last = at

    def _skip(self, match: re.Match[bytes]) -> None:
        self._known(match[2]).skipped += 1
        self.skipped_steps += 1

    def _known(self, number: bytes) -> _Seen:
        if int(number) >= len(self.optimizers):
            raise _Damaged(f"optimizer {int(number)}, of which nothing is known")
        return self.optimizers[int(number)]

    def _digest(self, match: re.Match[bytes]) -> None:
        at, what, number, own, value = match.groups()
        steps = self.digests.optimizer_steps
        if steps and int(at) < steps[-1]:
            raise _Damaged(f"the digest of optimizer step {int(at)} after {steps[-1]}")
        if len(self.digests) >= protocol.MAX_DIGESTS:
            raise _Damaged(f"more than {protocol.MAX_DIGESTS} digests")
        if what.decode() not in self.digests.kinds and len(self.digests.kinds) >= 100:
            raise _Damaged("more than 100 kinds of digests")
        self.digests.append(int(at), what.decode(), int(number), int(own), int(value, 16))

    def _tensor(self, match: re.Match[bytes]) -> None:
        if len(self.tensors) >= protocol.MAX_TENSORS:
            raise _Damaged(f"more than {protocol.MAX_TENSORS} digests of tensors")
        at, what, number, _, value = match.groups()
        optimizer = None if number == b"-" else int(number)
        name = _text(match[4])
        found = TensorDigest(
            optimizer_step=int(at), what=what.decode(), name=name, value=value.decode(), optimizer=optimizer
        )
        if found.what != protocol.STATE:
            self.tensors.append(found)
        elif name in self._states:
            # A module that was made again and again: the latest one counts.
            self.tensors[self._states[name]] = found
        else:
            self._states[name] = len(self.tensors)
            self.tensors.append(found)

    def _metric(self, match: re.Match[bytes]) -> None:
        _, at, step, dtype, bits = match.groups()
        name = _text(match[1])
        if name not in self.metrics and len(self.metrics) >= protocol.MAX_METRICS:
            raise _Damaged(f"more than {protocol.MAX_METRICS} metrics")
        self._logged += 1
        if self._logged > protocol.MAX_LOGGED:
            raise _Damaged(f"more than {protocol.MAX_LOGGED} values of metrics")
        series = self.metrics.setdefault(name, Series())
        # Another thread than the one that trains may have looked at the number of losses a moment before.
        after = max(int(at), series.at[-1] if series.at else 0)
        series.append(after, NO_STEP if step == b"-" else int(step), *_number(dtype, bits))

    def _final(self, match: re.Match[bytes]) -> None:
        self._known(match[1]).weights = match[2].decode()

    def _lost(self, match: re.Match[bytes]) -> None:
        if len(self.missing) < 100:
            self.missing.setdefault(match[1].decode(), printable(match[2].decode(errors="replace"), 300))

    def _end(self, _match: re.Match[bytes]) -> None:
        self.complete = True


_READERS: dict[bytes, tuple[re.Pattern[bytes], Callable[[_Stream, re.Match[bytes]], None]]] = {
    b"process": (_PROCESS, _Stream._process),
    b"loss": (_LOSS, _Stream._loss),
    b"optimizer": (_OPTIMIZER, _Stream._optimizer),
    b"step": (_STEP, _Stream._step),
    b"skip": (_SKIP, _Stream._skip),
    b"digest": (_DIGEST, _Stream._digest),
    b"tensor": (_TENSOR, _Stream._tensor),
    b"metric": (_METRIC, _Stream._metric),
    b"final": (_FINAL, _Stream._final),
    b"lost": (_LOST, _Stream._lost),
    b"end": (_END, _Stream._end),
}


def _number(dtype: bytes, bits: bytes) -> tuple[str, bytes]:
    """Return the dtype and bits of a number. Raises _Damaged where they do not fit each other."""
    name = dtype.decode()
    if len(bits) != 2 * WIDTHS[name]:
        raise _Damaged(f"{bits.decode()!r} are not the bits of a {name}")
    return name, bytes.fromhex(bits.decode())


def _text(raw: bytes) -> str:
    """Return a name. Raises _Damaged where it is none that a person can read."""
    text = raw.decode(errors="replace")
    if not text.isprintable() or len(text) > _LONGEST_NAME:
        raise _Damaged(f"a name that cannot be printed: {printable(text)}")
    return text


def _check_header(raw: bytes) -> None:
    header = protocol.STREAM_HEADER.encode().rstrip(b"\n")
    kind, _, version = raw.partition(b"\t")
    if raw == header:
        return
    if kind == header.partition(b"\t")[0] and b"\t" not in version:
        found = printable(version.decode(errors="replace"), 20)
        raise _Damaged(f"stream version {found!r}, this reprobox reads {protocol.STREAM_VERSION}")
    raise _Damaged("not a reprobox stream")


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
        for name in names_in(self._record, _NAME.pattern):
            match = _NAME.fullmatch(name)
            if match and int(match[1]) not in self._streams and len(self._streams) < _MOST_STREAMS:
                self._streams[int(match[1])] = _Stream(self._record / name, int(match[1]))
        found = []
        for number in sorted(self._streams):
            stream = self._streams[number]
            losses, digests = stream.read()
            if len(stream.losses) > losses or len(stream.digests) > digests:
                found.append(News(process=number, losses=losses, digests=digests, trajectory=stream.trajectory()))
        return tuple(found)

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
