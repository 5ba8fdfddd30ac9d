"""What a process recorded as compact text for the manifest and back, to the bit; and as the table that people read.

A column is base64 of zlib: of the losses' big-endian bits, byte-shuffled: all first bytes, then all second bytes, and
so on (the first bytes of neighbouring losses resemble each other, so they compress; the habit is HDF5's shuffle
filter); of whole numbers, each an unsigned LEB128 number (a metric's own step is 0 where there is none, else 2 * step +
1, or if it is negative -2 * step); or of text. Where the columns of a run are too long for a manifest, the long ones
are files beside it, and in their place stands `sha256:` over such a file, which is what the base64 would be of (see
`moved_out`).

`dtype` names the dtype of all losses (`float32`), or runs of it where it changes (`float32*100,bfloat16*20`); each run
is shuffled by itself; `event` and `scale` are written as such runs too. `optimizer_at` are the differences between
successive optimizer steps. `digests` are five columns one after another: the differences between their optimizer steps,
their kinds as places in `digest_kinds`, their optimizers, their rounds, and 8 bytes each, big-endian. `tensors` is a
line each, fields separated by tabs: optimizer step, what, name, value. A manifest may come from anybody: no text
decodes to more than its counts allow.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import itertools
import re
import sys
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from reprobox.digests import prefixed, sha256_of
from reprobox.errors import ManifestError
from reprobox.runtime.protocol import EVENTS, MAX_DIGESTS, MAX_LOGGED, MAX_LOSSES, MAX_TENSORS, TENSORS, WIDTHS
from reprobox.trajectory.bits import decimal
from reprobox.trajectory.columns import Numbers, Runs
from reprobox.trajectory.model import (
    NO_STEP,
    Digests,
    Losses,
    MetricRecord,
    Series,
    StreamRecord,
    TensorDigest,
    Trajectory,
)

# Positive, and a finite float64 whose inverse is one too.
SCALE_PATTERN = r"(?=[0-9.]*[1-9])[0-9]{1,25}(?:\.[0-9]{1,25})?(?:e[-+][0-9]{2})?"
# From so many characters on, the columns of a run are files of their own.
MAX_INLINE = 32_000_000
_LEAST_MOVED = 100_000
_RUN = re.compile(r"([a-z0-9.+-]+)\*([1-9]\d{0,8})")
_REFERENCE = re.compile(r"sha256:([0-9a-f]{64})")
_LONGEST_NUMBER = 9
_LONGEST_LINE = 300
_TABLE_HEADER = "step\tbits\tdecimal\n"
_TENSOR = re.compile(rf"(\d{{1,15}})\t({'|'.join(TENSORS)})\t(\d{{1,15}}|-)\t([^\t]{{1,200}})\t([0-9a-f]{{16}})")

# Returns the content of the file of that sha256 (in hex), at most so many bytes of it.
Files = Callable[[str, int], bytes]


def no_files(sha256: str, limit: int) -> bytes:
    """Stand for the files of a manifest that has none beside it. Raises ManifestError."""
    raise ManifestError(
        f"the losses lie in a file beside the manifest, which is not here: trajectory/{sha256}",
        hint="get the folder `trajectory` of the run too, or pack the run into one file (reprobox pack)",
    )


def encode_stream(trajectory: Trajectory) -> StreamRecord:
    """Pack a trajectory into the form the manifest carries. Raises ValueError for more than a stream may hold."""
    losses, digests = trajectory.losses, trajectory.digests
    for what, count, most in (("losses", len(losses), MAX_LOSSES), ("digests", len(digests), MAX_DIGESTS)):
        if count > most:
            raise ValueError(f"{count} {what} in one stream, at most {most} can be recorded")
    return StreamRecord(
        process=trajectory.process,
        role=trajectory.role,
        count=len(losses),
        dtype=_runs_text(losses.numbers.dtypes),
        event=_runs_text(losses.events),
        scale=_runs_text(losses.scales),
        sha256=sha256_of(losses.numbers.raw),
        optimizer_steps=trajectory.optimizer_steps,
        skipped_steps=trajectory.skipped_steps,
        complete=trajectory.complete,
        missing=dict(trajectory.missing),
        optimizers=trajectory.optimizers,
        losses=_deflate(_shuffled(losses.numbers)),
        optimizer_at=_deflate(_numbers_to_bytes(_differences(losses.optimizer_steps))),
        digest_count=len(digests),
        digest_kinds=tuple(digests.kinds),
        digests=_deflate(_pack_digests(digests)),
        tensor_count=len(trajectory.tensors),
        tensors=_deflate("".join(map(_tensor_line, trajectory.tensors)).encode()),
        metrics=tuple(encode_series(name, series) for name, series in trajectory.metrics.items()),
    )


def decode_stream(record: StreamRecord, files: Files = no_files) -> Trajectory:
    """Unpack what `encode_stream` made. Raises ManifestError for text that is damaged or not of its sha256."""
    for field, count, most in (
        ("count", record.count, MAX_LOSSES),
        ("digest_count", record.digest_count, MAX_DIGESTS),
        ("tensor_count", record.tensor_count, MAX_TENSORS),
    ):
        if not 0 <= count <= most:
            raise _damaged(field, f"{count}, expected 0 to {most}")
    if sum(one.count for one in record.metrics) > MAX_LOGGED:
        raise _damaged("metrics", f"more than {MAX_LOGGED} values")
    losses = Losses()
    losses.numbers = _unshuffled("losses", record.losses, record.dtype, record.count, record.sha256, files)
    losses.optimizer_steps = _steps("optimizer_at", record.optimizer_at, record.count, files)
    losses.events = Runs(_runs("event", record.event, record.count, EVENTS.__contains__))
    losses.scales = Runs(_runs("scale", record.scale, record.count, is_scale))
    return Trajectory(
        losses=losses,
        optimizer_steps=record.optimizer_steps,
        optimizers=record.optimizers,
        digests=_unpack_digests(record, files),
        tensors=_unpack_tensors(record, files),
        metrics={one.name: decode_series(one, files) for one in record.metrics},
        missing=record.missing,
        complete=record.complete,
        process=record.process,
        role=record.role,
        skipped_steps=record.skipped_steps,
    )


def encode_series(name: str, series: Series) -> MetricRecord:
    """Pack all values of one metric."""
    given = any(step != NO_STEP for step in series.steps)
    return MetricRecord(
        name=name,
        count=len(series),
        dtype=_runs_text(series.numbers.dtypes),
        sha256=sha256_of(series.numbers.raw),
        values=_deflate(_shuffled(series.numbers)),
        at=_deflate(_numbers_to_bytes(_differences(series.at))),
        steps=_deflate(_numbers_to_bytes(list(map(_from_step, series.steps)))) if given else None,
    )


def decode_series(record: MetricRecord, files: Files = no_files) -> Series:
    """Unpack what `encode_series` made. Raises ManifestError for text that is damaged or not of its sha256."""
    if not 0 <= record.count <= MAX_LOGGED:
        raise _damaged("metrics", f"{record.count} values, expected 0 to {MAX_LOGGED}")
    series = Series()
    series.numbers = _unshuffled("metrics", record.values, record.dtype, record.count, record.sha256, files)
    series.at = _steps("metrics", record.at, record.count, files)
    if record.steps is None:
        series.steps = array("q", [NO_STEP]) * record.count
    else:
        packed = _inflate("metrics", record.steps, _LONGEST_NUMBER * record.count, files)
        numbers, _ = _take_numbers("metrics", packed, record.count, whole=True)
        series.steps = array("q", map(_to_step, numbers))
    return series


def _from_step(step: int) -> int:
    """Write a step of the program's own, which may be negative and may fall, as a whole number; 0 stands for none."""
    return 0 if step == NO_STEP else 2 * step + 1 if step >= 0 else -2 * step


def _to_step(number: int) -> int:
    return NO_STEP if not number else number // 2 if number % 2 else -(number // 2)


def moved_out(streams: Sequence[StreamRecord]) -> tuple[tuple[StreamRecord, ...], dict[str, bytes]]:
    """Return the streams with their long columns replaced by references, and by sha256 the files that these name; as
    they are, and no file, where all is short enough.
    """
    files: dict[str, bytes] = {}
    if sum(len(text) for stream in streams for text in _columns(stream)) <= MAX_INLINE:
        return tuple(streams), files

    def moved(text: str) -> str:
        if len(text) < _LEAST_MOVED or _REFERENCE.fullmatch(text):
            return text
        content = base64.b64decode(text)
        sha256 = sha256_of(content)
        files[sha256] = content
        return prefixed(sha256)

    found = [
        replace(
            stream,
            losses=moved(stream.losses),
            optimizer_at=moved(stream.optimizer_at),
            digests=moved(stream.digests),
            tensors=moved(stream.tensors),
            metrics=tuple(
                replace(one, values=moved(one.values), at=moved(one.at), steps=one.steps and moved(one.steps))
                for one in stream.metrics
            ),
        )
        for stream in streams
    ]
    return tuple(found), files


def file_names(streams: Iterable[StreamRecord]) -> list[str]:
    """Return the sha256, in hex, of each file that the streams name."""
    matches = (_REFERENCE.fullmatch(text) for stream in streams for text in _columns(stream))
    return list(dict.fromkeys(match[1] for match in matches if match))


def _columns(stream: StreamRecord) -> Iterator[str]:
    yield from (stream.losses, stream.optimizer_at, stream.digests, stream.tensors)
    for one in stream.metrics:
        yield from (one.values, one.at, *((one.steps,) if one.steps else ()))


def trajectory_digest(trajectories: Sequence[Trajectory]) -> str:
    """Return `sha256:` over all losses of all streams.

    The canonical text is a line a stream, with tabs between fields: `stream`, its number, the number of its losses,
    their dtype, event and scale as the manifest writes them, the sha256 of their bits, and the sha256 of the optimizer
    steps before each, 8 bytes each, big-endian. Weights and completeness are recorded beside it, not in it.
    """
    digest = hashlib.sha256()
    for number, trajectory in enumerate(trajectories):
        losses = trajectory.losses
        runs = (losses.numbers.dtypes, losses.events, losses.scales)
        steps = array("q", losses.optimizer_steps)
        if sys.byteorder == "little":
            steps.byteswap()
        fields = (
            "stream",
            str(number),
            str(len(losses)),
            *map(_runs_text, runs),
            sha256_of(losses.numbers.raw),
            sha256_of(steps),
        )
        digest.update(("\t".join(fields) + "\n").encode())
    return prefixed(digest.hexdigest())


def losses_tsv(trajectory: Trajectory | None) -> Iterator[bytes]:
    """Yield, in pieces, the losses as a table, a header and a line a loss: step, bits in hex, shortest decimal that
    names them.

    Where a scale is known of any loss, a fourth column has the scale of each. None stands for a run without losses and
    gives the header alone.
    """
    losses = trajectory.losses if trajectory else Losses()
    scaled = any(scale != "1" for scale, _ in losses.scales.counted())
    yield (_TABLE_HEADER.replace("\n", "\tscale\n") if scaled else _TABLE_HEADER).encode()
    rows = enumerate(zip(losses.numbers.each(), losses.scales.each(), strict=True))
    lines = (
        f"{step}\t{bits}\t{decimal(bits, dtype)}" + (f"\t{scale}\n" if scaled else "\n")
        for step, ((dtype, bits), scale) in rows
    )
    for some in _some(lines):
        yield "".join(some).encode()


def _some(lines: Iterator[str]) -> Iterator[list[str]]:
    while some := list(itertools.islice(lines, 10_000)):
        yield some


def is_scale(text: str) -> bool:
    """Say whether a text is the scale of a loss: a positive decimal of ordinary size."""
    return re.fullmatch(SCALE_PATTERN, text) is not None


def _runs_text(runs: Runs) -> str:
    found = list(runs.counted())
    if len(found) == 1:
        return found[0][0]
    return ",".join(f"{value}*{count}" for value, count in found)


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


def _shuffled(numbers: Numbers) -> bytes:
    pieces = []
    start = 0
    for dtype, count in numbers.dtypes.counted():
        width = WIDTHS[dtype]
        raw = numbers.raw[start : start + width * count]
        start += width * count
        pieces += [raw[place::width] for place in range(width)]
    return b"".join(pieces)


def _unshuffled(field: str, text: str, dtype: str, count: int, sha256: str, files: Files) -> Numbers:
    runs = _runs("dtype", dtype, count, WIDTHS.__contains__)
    length = sum(WIDTHS[one] * number for one, number in runs)
    shuffled = _inflate(field, text, length, files)
    if len(shuffled) != length:
        raise _damaged(field, f"{len(shuffled)} bytes, expected {length}")
    numbers = Numbers()
    offset = 0
    for one, number in runs:
        width = WIDTHS[one]
        raw = bytearray(width * number)
        for place in range(width):
            raw[place::width] = shuffled[offset + place * number : offset + (place + 1) * number]
        offset += width * number
        numbers.extend(one, raw)
    found = sha256_of(numbers.raw)
    if found != sha256:
        raise _damaged(field, f"their sha256 is {found}, the manifest says {sha256[:80]}")
    return numbers


def _pack_digests(digests: Digests) -> bytes:
    values = array("Q", digests.values)
    if sys.byteorder == "little":
        values.byteswap()
    return b"".join(
        (
            _numbers_to_bytes(_differences(digests.optimizer_steps)),
            _numbers_to_bytes(digests.kind_at),
            _numbers_to_bytes(digests.optimizers),
            _numbers_to_bytes(digests.rounds),
            values.tobytes(),
        )
    )


def _unpack_digests(record: StreamRecord, files: Files) -> Digests:
    count = record.digest_count
    packed = _inflate("digests", record.digests, (4 * _LONGEST_NUMBER + 8) * count, files)
    differences, packed = _take_numbers("digests", packed, count)
    kinds, packed = _take_numbers("digests", packed, count)
    optimizers, packed = _take_numbers("digests", packed, count)
    rounds, packed = _take_numbers("digests", packed, count)
    if len(packed) != 8 * count:
        raise _damaged("digests", f"they are not {count} digests")
    if max(kinds, default=0) >= max(1, len(record.digest_kinds)) or (count and not record.digest_kinds):
        raise _damaged("digest_kinds", "a digest is of none of them")
    found = Digests()
    found.optimizer_steps = _accumulated("digests", differences)
    found.kinds = list(record.digest_kinds)
    # By `iter`, as an array takes bytes for its own memory.
    found.kind_at = array("H", iter(kinds))
    found.optimizers, found.rounds = array("q", iter(optimizers)), array("q", iter(rounds))
    found.values = array("Q", packed)
    if sys.byteorder == "little":
        found.values.byteswap()
    return found


def _tensor_line(one: TensorDigest) -> str:
    optimizer = "-" if one.optimizer is None else one.optimizer
    return f"{one.optimizer_step}\t{one.what}\t{optimizer}\t{one.name}\t{one.value}\n"


def _unpack_tensors(record: StreamRecord, files: Files) -> tuple[TensorDigest, ...]:
    content = _inflate("tensors", record.tensors, _LONGEST_LINE * record.tensor_count, files)
    try:
        lines = content.decode().split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise _damaged("tensors", "they are not UTF-8") from error
    found = []
    for line in lines:
        match = _TENSOR.fullmatch(line)
        if match is None or not match[4].isprintable():
            raise _damaged("tensors", f"{line[:40]!r} is no digest of a tensor")
        at, what, number, name, value = match.groups()
        optimizer = None if number == "-" else int(number)
        found.append(TensorDigest(optimizer_step=int(at), what=what, name=name, value=value, optimizer=optimizer))
    if len(found) != record.tensor_count:
        raise _damaged("tensors", f"they are {len(found)}, expected {record.tensor_count}")
    return tuple(found)


def _differences(steps: Iterable[int]) -> list[int]:
    differences = [after - before for before, after in itertools.pairwise(itertools.chain((0,), steps))]
    if any(difference < 0 for difference in differences):
        raise ValueError("optimizer steps must not fall from one loss to the next")
    return differences


def _steps(field: str, text: str, count: int, files: Files) -> array[int]:
    packed = _inflate(field, text, _LONGEST_NUMBER * count, files)
    numbers, _ = _take_numbers(field, packed, count, whole=True)
    return _accumulated(field, numbers)


def _accumulated(field: str, differences: Iterable[int]) -> array[int]:
    try:
        return array("q", itertools.accumulate(differences))
    except OverflowError as error:
        raise _damaged(field, "a step beyond 2^63") from error


def _numbers_to_bytes(numbers: Sequence[int]) -> bytes:
    """Write numbers as unsigned LEB128 (DWARF 5, section 7.6): seven bits a byte, lowest first."""
    if max(numbers, default=0) < 0x80:
        return bytes(iter(numbers))  # by `iter`, as of an array it would take the memory
    packed = bytearray()
    for number in numbers:
        rest = number
        while rest > 0x7F:
            packed.append(rest & 0x7F | 0x80)
            rest >>= 7
        packed.append(rest)
    return bytes(packed)


def _take_numbers(field: str, packed: bytes, count: int, *, whole: bool = False) -> tuple[Sequence[int], bytes]:
    """Read that many LEB128 numbers, which `whole` says are all there is; return them and what follows."""
    if len(packed) >= count and max(packed[:count], default=0) < 0x80:
        if whole and len(packed) != count:
            raise _damaged(field, f"{len(packed)} or fewer whole numbers, expected {count}")
        return packed[:count], packed[count:]
    numbers = array("q")
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


def _inflate(field: str, text: str, limit: int, files: Files) -> bytes:
    """Return the unpacked bytes, never more than `limit`: what is longer is refused before it is unpacked."""
    try:
        reference = _REFERENCE.fullmatch(text)
        # What zlib cannot compress it makes longer by less than a hundredth.
        packed = (
            files(reference[1], limit + limit // 100 + 1000) if reference else base64.b64decode(text, validate=True)
        )
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
