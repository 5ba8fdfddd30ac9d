"""What the manifest carries decodes to the same losses, to the bit, and hostile text decodes to nothing."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import random
import zlib
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox.errors import ManifestError
from reprobox.runtime.protocol import DIGESTED, EVENTS, TENSORS, WIDTHS
from reprobox.trajectory.codec import (
    decode_stream,
    encode_stream,
    file_names,
    losses_tsv,
    moved_out,
    trajectory_digest,
)
from reprobox.trajectory.model import (
    NO_STEP,
    Digest,
    Digests,
    Loss,
    Losses,
    Optimizer,
    Series,
    StreamRecord,
    TensorDigest,
    Trajectory,
)
from tests.unit.counting import calls

HEX_DIGEST = st.binary(min_size=8, max_size=8).map(bytes.hex)


def trajectory_of(values: list[tuple[str, str, int]], **more: object) -> Trajectory:
    """Build a trajectory of (dtype, bits, optimizer steps taken since the loss before)."""
    losses = Losses()
    at = 0
    for dtype, bits, taken in values:
        at += taken
        losses.append(at, dtype, bytes.fromhex(bits))
    settings = {"optimizer_steps": at + 1, **more}
    return Trajectory(losses=losses, **settings)  # type: ignore[arg-type]


def series_of(values: list[tuple[str, str, int, int]]) -> Series:
    """Build a metric of (dtype, bits, losses since the value before, the program's step or -1)."""
    series = Series()
    at = 0
    for dtype, bits, since, step in values:
        at += since
        series.append(at, step, dtype, bytes.fromhex(bits))
    return series


NUMBER = st.sampled_from(sorted(WIDTHS)).flatmap(
    lambda dtype: st.tuples(st.just(dtype), st.binary(min_size=WIDTHS[dtype], max_size=WIDTHS[dtype]).map(bytes.hex))
)
OPTIMIZER = st.builds(
    Optimizer,
    training=st.integers(0, 3),
    kind=st.just("SGD"),
    steps=st.integers(0, 9),
    skipped_steps=st.integers(0, 9),
    first_step=st.none() | st.integers(0, 9),
    last_step=st.none() | st.integers(0, 9),
    weights=st.none() | st.just("sha256:" + "ab" * 32),
)


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    digest = st.builds(
        Digest,
        optimizer_step=st.integers(0, 2**40),
        what=st.sampled_from((*DIGESTED, "weather")),
        optimizer=st.integers(0, 300),
        value=HEX_DIGEST,
        round=st.integers(0, 2**40),
    )
    tensor = st.builds(
        TensorDigest,
        optimizer_step=st.integers(0, 2**40),
        what=st.sampled_from(TENSORS),
        name=st.text("abc.# 0ä", min_size=1, max_size=20),
        value=HEX_DIGEST,
        optimizer=st.none() | st.integers(0, 300),
    )
    value = st.tuples(NUMBER, st.integers(0, 300), st.integers(-(2**40), 2**40) | st.just(NO_STEP)).map(
        lambda one: (*one[0], *one[1:])
    )
    losses = Losses()
    at = 0
    for (dtype, bits), taken in draw(st.lists(st.tuples(NUMBER, st.integers(0, 2**40)), max_size=30)):
        at += taken
        event, scale = draw(st.tuples(st.sampled_from(EVENTS), st.sampled_from(["1", "65536", "0.25"])))
        losses.append(at, dtype, bytes.fromhex(bits), event, scale)
    return Trajectory(
        losses=losses,
        optimizer_steps=at + 1,
        optimizers=tuple(draw(st.lists(OPTIMIZER, max_size=3))),
        digests=Digests(sorted(draw(st.lists(digest, max_size=9)), key=lambda one: one.optimizer_step)),
        tensors=tuple(draw(st.lists(tensor, max_size=5))),
        metrics=draw(
            st.dictionaries(st.sampled_from(["a", "b/c"]), st.lists(value, min_size=1, max_size=5).map(series_of))
        ),
        missing=draw(st.dictionaries(st.sampled_from(["final", "state"]), st.just("why"))),
        process=draw(st.integers(0, 9)),
        role=draw(st.sampled_from(["root", "rank", "child"])),
        skipped_steps=draw(st.integers(0, 9)),
        complete=draw(st.booleans()),
    )


@given(trajectories())
def test_a_decoded_stream_is_the_encoded_one_to_the_bit(trajectory: Trajectory) -> None:
    assert decode_stream(encode_stream(trajectory)) == trajectory


def test_nan_payloads_and_infinities_survive() -> None:
    odd = ["7fc00123", "ffffffff", "7f800001", "7f800000", "ff800000", "80000000"]
    trajectory = trajectory_of([("float32", bits, 1) for bits in odd])
    assert [loss.bits for loss in decode_stream(encode_stream(trajectory)).losses] == odd


def test_the_sha256_is_over_the_big_endian_bits() -> None:
    record = encode_stream(trajectory_of([("float32", "40b06e12", 0), ("float32", "40b2b3f7", 1)]))
    assert record.sha256 == hashlib.sha256(bytes.fromhex("40b06e1240b2b3f7")).hexdigest()
    assert (record.count, record.dtype) == (2, "float32")


def test_a_change_of_dtype_is_written_as_runs() -> None:
    record = encode_stream(
        trajectory_of([("float32", "40b06e12", 0), ("bfloat16", "40b0", 1), ("bfloat16", "40b1", 1)])
    )
    assert record.dtype == "float32*1,bfloat16*2"


def falling(count: int) -> Trajectory:
    """Losses that fall a little with each step, as those of a training do."""
    return trajectory_of([("float32", f"{0x40B06E12 - 37 * step:08x}", step % 2) for step in range(count)])


def test_a_hundred_thousand_losses_take_little_room() -> None:
    record = encode_stream(falling(100_000))
    assert len(record.optimizer_at) < 1000
    assert len(record.losses) < 100_000 * 4


def table_of(trajectory: Trajectory | None) -> str:
    return b"".join(losses_tsv(trajectory)).decode()


@pytest.mark.parametrize("work", [encode_stream, table_of])
def test_packing_and_tabling_take_a_few_calls_a_loss_however_many_there_are(
    work: Callable[[Trajectory], object],
) -> None:
    fewer, more = (calls(partial(work, falling(count)))[1] for count in (1_000, 10_000))
    assert more < 10.5 * fewer
    assert more < 30 * 10_000


def test_the_table_has_a_line_a_loss() -> None:
    assert table_of(falling(1000)).count("\n") == 1001


def test_the_table_has_step_bits_and_decimal() -> None:
    table = table_of(trajectory_of([("float32", "3dcccccd", 0), ("float32", "7fc00000", 1)]))
    assert table == "step\tbits\tdecimal\n0\t3dcccccd\t0.1\n1\t7fc00000\tnan\n"
    assert table_of(None) == "step\tbits\tdecimal\n"


def test_a_known_scale_has_its_own_column() -> None:
    loss = Loss(step=0, optimizer_step=0, dtype="float32", bits="47800000", scale="65536")
    assert table_of(Trajectory(losses=Losses([loss]))) == "step\tbits\tdecimal\tscale\n0\t47800000\t65536\t65536\n"


def test_the_trajectory_digest_tells_streams_steps_and_dtypes_apart() -> None:
    one = trajectory_of([("float32", "3dcccccd", 0), ("float32", "3dccccce", 1)])
    variants = [
        [one],
        [one, one],
        [dataclasses.replace(one, losses=one.losses.part(0, 1))],
        [
            dataclasses.replace(one, losses=one.losses.part(0, 1)),
            dataclasses.replace(one, losses=one.losses.part(1, 2)),
        ],
        [trajectory_of([("float32", "3dcccccd", 0), ("float32", "3dccccce", 2)])],
        [],
    ]
    digests = [trajectory_digest(variant) for variant in variants]
    assert len(set(digests)) == len(variants)
    assert all(digest.startswith("sha256:") and len(digest) == 71 for digest in digests)
    assert trajectory_digest([dataclasses.replace(one, complete=False)]) == digests[0]


def packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


GOOD = encode_stream(trajectory_of([("float32", "3dcccccd", 0), ("float32", "3dccccce", 1)]))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"losses": packed(b"\0" * 10_000_000)}, "more than the 8 bytes"),
        ({"losses": packed(b"\0" * 7)}, "7 bytes, expected 8"),
        ({"losses": GOOD.losses[:-8]}, "losses"),
        ({"losses": base64.b64encode(zlib.compress(b"\0" * 8) + b"more").decode()}, "more after its end"),
        ({"losses": "not base64!"}, "cannot be unpacked"),
        ({"losses": packed(b"\0" * 8)}, "their sha256 is"),
        ({"optimizer_at": packed(b"\x80" * 18)}, "too long"),
        ({"optimizer_at": packed(b"\0")}, "1 whole numbers, expected 2"),
        ({"optimizer_at": packed(b"\0\x80")}, "1 whole numbers, expected 2"),
        ({"optimizer_at": packed(b"\0" * 10_000_000)}, "more than the 18 bytes"),
        ({"count": 3}, "expected 12"),
        ({"count": -1}, "expected 0 to"),
        ({"count": 2**40}, "expected 0 to"),
        ({"dtype": "float32*1"}, "do not add up"),
        ({"dtype": "float32*999999999,float32*999999999"}, "do not add up"),
        ({"dtype": "int8"}, "'int8' is neither a dtype"),
        ({"sha256": "0" * 64}, "the manifest says"),
        ({"event": "backward*1"}, "event: its runs do not add up"),
        ({"scale": "0"}, "neither a scale"),
        ({"scale": "1e999"}, "neither a scale"),
        ({"digest_count": 2}, "digests"),
        ({"digest_count": 2**40}, "expected 0 to"),
        ({"digest_count": 1, "digests": packed(b"\0" * 4 + b"x" * 9), "digest_kinds": ("rng",)}, "are not 1 digests"),
        ({"digest_count": 1, "digests": packed(b"\0" * 4 + b"x" * 8)}, "a digest is of none of them"),
        (
            {"digest_count": 1, "digests": packed(b"\0\1\0\0" + b"x" * 8), "digest_kinds": ("rng",)},
            "is of none of them",
        ),
        ({"optimizer_at": packed(b"\xff" * 8 + b"\x7f" * 2)}, "a step beyond 2"),
        ({"tensor_count": 1, "tensors": packed(b"0\tstate\t-\tname\n")}, "is no digest of a tensor"),
        ({"tensor_count": 1, "tensors": packed(b"0\tstate\t-\tna\x1bme\t0123456789abcdef\n")}, "is no digest of a"),
        ({"tensor_count": 2, "tensors": packed(b"0\tstate\t-\tname\t0123456789abcdef\n")}, "they are 1, expected 2"),
        ({"tensor_count": 1, "tensors": packed(b"\xff\n")}, "not UTF-8"),
        ({"tensor_count": 2**40}, "expected 0 to"),
        ({"losses": "sha256:" + "0" * 64}, "which is not here: trajectory/0000"),
        ({"digests": packed(b"\0" * 10_000_000)}, "more than the 0 bytes"),
    ],
)
def test_a_damaged_or_hostile_stream_is_refused_by_name(change: dict[str, object], word: str) -> None:
    record: StreamRecord = dataclasses.replace(GOOD, **change)  # type: ignore[arg-type]
    with pytest.raises(ManifestError, match=word):
        decode_stream(record)


def test_losses_whose_optimizer_steps_fall_are_not_encoded() -> None:
    losses = Losses([Loss(step=at, optimizer_step=1 - at, dtype="float32", bits="3dcccccd") for at in range(2)])
    with pytest.raises(ValueError, match="must not fall"):
        encode_stream(Trajectory(losses=losses))


def test_long_columns_are_files_of_their_own_and_short_ones_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = random.Random(1).randbytes(4 * 60_000)
    losses = Losses()
    for at in range(60_000):
        losses.append(at, "float32", noise[4 * at : 4 * at + 4])
    trajectory = Trajectory(losses=losses, optimizer_steps=60_000)
    record = encode_stream(trajectory)
    assert moved_out([record]) == ((record,), {})
    monkeypatch.setattr("reprobox.trajectory.codec.MAX_INLINE", 200_000)
    (moved,), files = moved_out([record])
    (name,) = file_names([moved])
    assert files.keys() == {name}
    assert (moved.losses, moved.optimizer_at) == (f"sha256:{name}", record.optimizer_at)
    assert hashlib.sha256(files[name]).hexdigest() == name
    assert decode_stream(moved, lambda sha256, limit: files[sha256]) == trajectory
    with pytest.raises(ManifestError, match="cut short"):
        decode_stream(moved, lambda sha256, limit: files[sha256][:-9])
