"""Losses as compact text for the manifest and back, to the bit; and as the table that people read.

`losses` is base64 of zlib over the big-endian bits, byte-shuffled: all first bytes, then all second bytes, and so on
(the first bytes of neighbouring losses resemble each other, so they compress; the habit is HDF5's shuffle filter).
`dtype` names the dtype of all losses (`float32`), or runs of it where it changes (`float32*100,bfloat16*20`); each run
is shuffled by itself. `optimizer_at` is base64 of zlib over the differences between successive optimizer steps, each
an unsigned LEB128 number. A manifest may come from anybody: no text decodes to more than its `count` allows.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import itertools
import re
import zlib
from collections.abc import Sequence

from reprobox.errors import ManifestError
from reprobox.trajectory.bits import WIDTHS, decimal
from reprobox.trajectory.model import Loss, StreamRecord, Trajectory

# 16 million: 19 days of training at ten losses a second, and at most 128 MB of bits.
MAX_LOSSES = 1 << 24
_RUN = re.compile(r"([a-z0-9]+)\*([1-9]\d{0,8})")
_LONGEST_NUMBER = 9
_TABLE_HEADER = "step\tbits\tdecimal\n"


def encode_stream(trajectory: Trajectory) -> StreamRecord:
    """Pack a trajectory into the form the manifest carries. Raises ValueError for more than `MAX_LOSSES` losses."""
    losses = trajectory.losses
    if len(losses) > MAX_LOSSES:
        raise ValueError(f"{len(losses)} losses in one stream, at most {MAX_LOSSES} can be recorded")
    runs = [(dtype, [loss.bits for loss in group]) for dtype, group in itertools.groupby(losses, lambda one: one.dtype)]
    raw = [(WIDTHS[dtype], bytes.fromhex("".join(bits))) for dtype, bits in runs]
    shuffled = b"".join(data[place::width] for width, data in raw for place in range(width))
    steps = [loss.optimizer_step for loss in losses]
    return StreamRecord(
        count=len(losses),
        dtype=_dtype_text([(dtype, len(bits)) for dtype, bits in runs]),
        sha256=hashlib.sha256(b"".join(data for _, data in raw)).hexdigest(),
        optimizer_steps=trajectory.optimizer_steps,
        weights=trajectory.weights,
        complete=trajectory.complete,
        losses=_deflate(shuffled),
        optimizer_at=_deflate(_numbers_to_bytes(_differences(steps))),
    )


def decode_stream(record: StreamRecord) -> Trajectory:
    """Unpack what `encode_stream` made. Raises ManifestError for text that is damaged or not of its sha256."""
    if not 0 <= record.count <= MAX_LOSSES:
        raise _damaged("count", f"{record.count} losses, expected 0 to {MAX_LOSSES}")
    runs = _dtype_runs(record)
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
    steps = itertools.accumulate(_bytes_to_numbers(packed, record.count))
    return Trajectory(
        losses=tuple(
            Loss(step=step, optimizer_step=optimizer_step, dtype=dtype, bits=one)
            for step, (optimizer_step, dtype, one) in enumerate(zip(steps, dtypes, bits, strict=True))
        ),
        optimizer_steps=record.optimizer_steps,
        weights=record.weights,
        complete=record.complete,
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

    None stands for a run without losses and gives the header alone.
    """
    lines = (
        f"{one.step}\t{one.bits}\t{decimal(one.bits, one.dtype)}\n" for one in (trajectory.losses if trajectory else ())
    )
    return _TABLE_HEADER + "".join(lines)


def _dtype_text(runs: list[tuple[str, int]]) -> str:
    if len(runs) == 1:
        return runs[0][0]
    return ",".join(f"{dtype}*{count}" for dtype, count in runs)


def _dtype_runs(record: StreamRecord) -> list[tuple[str, int]]:
    if record.dtype in WIDTHS:
        return [(record.dtype, record.count)]
    runs = []
    for text in record.dtype.split(",") if record.dtype else []:
        match = _RUN.fullmatch(text)
        if not match or match[1] not in WIDTHS:
            raise _damaged("dtype", f"{text[:40]!r} is not one of {', '.join(WIDTHS)} or DTYPE*COUNT")
        runs.append((match[1], int(match[2])))
    if sum(count for _, count in runs) != record.count:
        raise _damaged("dtype", f"its runs do not add up to {record.count} losses")
    return runs


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


def _bytes_to_numbers(packed: bytes, count: int) -> list[int]:
    numbers: list[int] = []
    number = shift = 0
    for byte in packed:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(number)
            number = shift = 0
        elif shift >= 7 * _LONGEST_NUMBER:
            raise _damaged("optimizer_at", "a number in it is too long")
    if shift or len(numbers) != count:
        raise _damaged("optimizer_at", f"{len(numbers)} whole numbers, expected {count}")
    return numbers


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
