"""Losses as compact text for the manifest and back, to the bit; and as the table that people read.

`losses` is base64 of zlib over the big-endian bits, byte-shuffled: all first bytes, then all second bytes, and so on
(the first bytes of neighbouring losses resemble each other, so they compress; the habit is HDF5's shuffle filter).
`dtype` names the dtype of all losses (`float32`), or runs of it where it changes (`float32*100,bfloat16*20`); each run
is shuffled by itself; `event` and `scale` are written as such runs too. `optimizer_at` is base64 of zlib over the
differences between successive optimizer steps, each an unsigned LEB128 number. `digests` is base64 of zlib over three
columns: the differences between their optimizer steps, `4 * optimizer + kind` (0 gradients, 1 weights, 2 rng, 3
batch), both in LEB128, and their 8 bytes each, big-endian. A manifest may come from anybody: no text decodes to more
than its counts allow.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import itertools
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from reprobox.errors import ManifestError
from reprobox.trajectory.bits import WIDTHS, decimal
from reprobox.trajectory.model import Digest, Loss, StreamRecord, Trajectory

# 16 million: 19 days of training at ten losses a second, and at most 128 MB of bits.
MAX_LOSSES = 1 << 24
MAX_DIGESTS = 1 << 22
EVENTS = ("backward", "grad", "func")
DIGESTED = ("gradients", "weights", "rng", "batch")
# Positive, and a finite float64 whose inverse is one too.
SCALE_PATTERN = r"(?=[0-9.]*[1-9])[0-9]{1,25}(?:\.[0-9]{1,25})?(?:e[-+][0-9]{2})?"
_RUN = re.compile(r"([a-z0-9.+-]+)\*([1-9]\d{0,8})")
_LONGEST_NUMBER = 9
_TABLE_HEADER = "step\tbits\tdecimal\n"


def encode_stream(trajectory: Trajectory) -> StreamRecord:
    """Pack a trajectory into the form the manifest carries. Raises ValueError for more than `MAX_LOSSES` losses."""
    losses = trajectory.losses
    if len(losses) > MAX_LOSSES:
        raise ValueError(f"{len(losses)} losses in one stream, at most {MAX_LOSSES} can be recorded")
    if len(trajectory.digests) > MAX_DIGESTS:
        raise ValueError(f"{len(trajectory.digests)} digests in one stream, at most {MAX_DIGESTS} can be recorded")
    runs = [(dtype, [loss.bits for loss in group]) for dtype, group in itertools.groupby(losses, lambda one: one.dtype)]
    raw = [(WIDTHS[dtype], bytes.fromhex("".join(bits))) for dtype, bits in runs]
    shuffled = b"".join(data[place::width] for width, data in raw for place in range(width))
    steps = [loss.optimizer_step for loss in losses]
    return StreamRecord(
        process=trajectory.process,
        count=len(losses),
        dtype=_runs_text(loss.dtype for loss in losses),
        event=_runs_text(loss.event for loss in losses),
        scale=_runs_text(loss.scale for loss in losses),
        sha256=hashlib.sha256(b"".join(data for _, data in raw)).hexdigest(),
        optimizer_steps=trajectory.optimizer_steps,
        skipped_steps=trajectory.skipped_steps,
        weights=trajectory.weights,
        complete=trajectory.complete,
        losses=_deflate(shuffled),
        optimizer_at=_deflate(_numbers_to_bytes(_differences(steps))),
        digest_count=len(trajectory.digests),
        digests=_deflate(_pack_digests(trajectory.digests)),
    )


def decode_stream(record: StreamRecord) -> Trajectory:
    """Unpack what `encode_stream` made. Raises ManifestError for text that is damaged or not of its sha256."""
    if not 0 <= record.count <= MAX_LOSSES:
        raise _damaged("count", f"{record.count} losses, expected 0 to {MAX_LOSSES}")
    if not 0 <= record.digest_count <= MAX_DIGESTS:
        raise _damaged("digest_count", f"{record.digest_count} digests, expected 0 to {MAX_DIGESTS}")
    runs = _runs("dtype", record.dtype, record.count, WIDTHS.__contains__)
    length = sum(WIDTHS[dtype] * count for dtype, count in runs)
    shuffled = _inflate("losses", record.losses, length)
    if len(shuffled) != length:
        raise _damaged("losses", f"{len(shuffled)} bytes, expected {length}")
    bits: list[str] = []
    dtypes: list[str] = []
    digest = hashlib.sha256()
    offset = 0
    for dtype, count in runs:
        width = WIDTHS[dtype]
        raw = bytearray(width * count)
        for place in range(width):
            raw[place::width] = shuffled[offset + place * count : offset + (place + 1) * count]
        offset += width * count
        digest.update(raw)
        text = raw.hex()
        bits += [text[start : start + 2 * width] for start in range(0, len(text), 2 * width)]
        dtypes += [dtype] * count
    if digest.hexdigest() != record.sha256:
        raise _damaged("losses", f"their sha256 is {digest.hexdigest()}, the manifest says {record.sha256[:80]}")
    packed = _inflate("optimizer_at", record.optimizer_at, _LONGEST_NUMBER * record.count)
    numbers, _ = _take_numbers("optimizer_at", packed, record.count, whole=True)
    steps = itertools.accumulate(numbers)
    events = _spread(_runs("event", record.event, record.count, EVENTS.__contains__))
    scales = _spread(_runs("scale", record.scale, record.count, is_scale))
    return Trajectory(
        losses=tuple(
            Loss(step=step, optimizer_step=optimizer_step, dtype=dtype, bits=one, event=event, scale=scale)
            for step, (optimizer_step, dtype, one, event, scale) in enumerate(
                zip(steps, dtypes, bits, events, scales, strict=True)
            )
        ),
        optimizer_steps=record.optimizer_steps,
        weights=record.weights,
        complete=record.complete,
        process=record.process,
        skipped_steps=record.skipped_steps,
        digests=_unpack_digests(record),
    )


def trajectory_digest(trajectories: Sequence[Trajectory]) -> str:
    """Return `sha256:` over all losses of all streams.

    The canonical text is, a stream, the line `stream N` and then a line a loss, `STEP OPTIMIZER_STEP DTYPE BITS`, with
    tabs between fields. Weights and completeness are recorded beside it, not in it.
    """
    digest = hashlib.sha256()
    for number, trajectory in enumerate(trajectories):
        digest.update(f"stream\t{number}\n".encode())
        lines = (f"{one.step}\t{one.optimizer_step}\t{one.dtype}\t{one.bits}\n" for one in trajectory.losses)
        digest.update("".join(lines).encode())
    return "sha256:" + digest.hexdigest()


def losses_tsv(trajectory: Trajectory | None) -> str:
    """Return the losses as a table, a header and a line a loss: step, bits in hex, shortest decimal that names them.

    Where a scale is known of any loss, a fourth column has the scale of each. None stands for a run without losses and
    gives the header alone.
    """
    losses = trajectory.losses if trajectory else ()
    if all(one.scale == "1" for one in losses):
        lines = (f"{one.step}\t{one.bits}\t{decimal(one.bits, one.dtype)}\n" for one in losses)
        return _TABLE_HEADER + "".join(lines)
    lines = (f"{one.step}\t{one.bits}\t{decimal(one.bits, one.dtype)}\t{one.scale}\n" for one in losses)
    return _TABLE_HEADER.replace("\n", "\tscale\n") + "".join(lines)


def is_scale(text: str) -> bool:
    """Say whether a text is the scale of a loss: a positive decimal of ordinary size."""
    return re.fullmatch(SCALE_PATTERN, text) is not None


def _runs_text(values: Iterable[str]) -> str:
    runs = [(value, sum(1 for _ in group)) for value, group in itertools.groupby(values)]
    if len(runs) == 1:
        return runs[0][0]
    return ",".join(f"{value}*{count}" for value, count in runs)


def _runs(field: str, text: str, count: int, allowed: Callable[[str], bool]) -> list[tuple[str, int]]:
    if allowed(text):
        return [(text, count)]
    runs = []
    for part in text.split(",") if text else []:
        match = _RUN.fullmatch(part)
        if not match or not allowed(match[1]):
            raise _damaged(field, f"{part[:40]!r} is neither a {field} nor one with *COUNT")
        runs.append((match[1], int(match[2])))
    if sum(length for _, length in runs) != count:
        raise _damaged(field, f"its runs do not add up to {count} losses")
    return runs


def _spread(runs: list[tuple[str, int]]) -> Iterator[str]:
    return itertools.chain.from_iterable(itertools.repeat(value, length) for value, length in runs)


def _pack_digests(digests: Sequence[Digest]) -> bytes:
    steps = _differences([one.optimizer_step for one in digests])
    kinds = [4 * one.optimizer + DIGESTED.index(one.what) for one in digests]
    values = bytes.fromhex("".join(one.value for one in digests))
    return _numbers_to_bytes(steps) + _numbers_to_bytes(kinds) + values


def _unpack_digests(record: StreamRecord) -> tuple[Digest, ...]:
    count = record.digest_count
    packed = _inflate("digests", record.digests, (2 * _LONGEST_NUMBER + 8) * count)
    differences, packed = _take_numbers("digests", packed, count)
    kinds, packed = _take_numbers("digests", packed, count)
    if len(packed) != 8 * count:
        raise _damaged("digests", f"they are not {count} digests")
    text = packed.hex()
    return tuple(
        Digest(
            optimizer_step=step,
            what=DIGESTED[kind % 4],
            optimizer=kind // 4,
            value=text[16 * place : 16 * place + 16],
        )
        for place, (step, kind) in enumerate(zip(itertools.accumulate(differences), kinds, strict=True))
    )


def _differences(steps: list[int]) -> list[int]:
    differences = [after - before for before, after in itertools.pairwise([0, *steps])]
    if any(difference < 0 for difference in differences):
        raise ValueError("optimizer steps must not fall from one loss to the next")
    return differences


def _numbers_to_bytes(numbers: list[int]) -> bytes:
    """Write numbers as unsigned LEB128 (DWARF 5, section 7.6): seven bits a byte, lowest first."""
    packed = bytearray()
    for number in numbers:
        rest = number
        while rest > 0x7F:
            packed.append(rest & 0x7F | 0x80)
            rest >>= 7
        packed.append(rest)
    return bytes(packed)


def _take_numbers(field: str, packed: bytes, count: int, *, whole: bool = False) -> tuple[list[int], bytes]:
    """Read that many LEB128 numbers, which `whole` says are all there is; return them and what follows."""
    numbers: list[int] = []
    number = shift = place = 0
    for place, byte in enumerate(packed):
        if len(numbers) == count and not whole:
            return numbers, packed[place:]
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(number)
            number = shift = 0
        elif shift >= 7 * _LONGEST_NUMBER:
            raise _damaged(field, "a number in it is too long")
    if shift or len(numbers) != count:
        raise _damaged(field, f"{len(numbers)} whole numbers, expected {count}")
    return numbers, b""


def _deflate(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 9)).decode()


def _inflate(field: str, text: str, limit: int) -> bytes:
    """Return the unpacked bytes, never more than `limit`: what is longer is refused before it is unpacked."""
    try:
        packed = base64.b64decode(text, validate=True)
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(packed, limit + 1)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise _damaged(field, f"cannot be unpacked ({error})") from error
    if len(data) > limit:
        raise _damaged(field, f"unpacks to more than the {limit} bytes that its count allows")
    if not unpacker.eof or unpacker.unused_data:
        raise _damaged(field, "is cut short" if not unpacker.eof else "has more after its end")
    return data


def _damaged(field: str, problem: str) -> ManifestError:
    return ManifestError(
        f"the recorded losses are damaged: {field}: {problem}",
        hint="the manifest was edited or truncated; get it again from where it came from",
    )
