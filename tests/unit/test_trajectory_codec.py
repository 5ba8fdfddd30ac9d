"""What the manifest carries decodes to the same losses, to the bit, and hostile text decodes to nothing."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import zlib
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox.errors import ManifestError
from reprobox.trajectory.bits import WIDTHS
from reprobox.trajectory.codec import DIGESTED, EVENTS, decode_stream, encode_stream, losses_tsv, trajectory_digest
from reprobox.trajectory.model import Digest, Loss, StreamRecord, Trajectory
from tests.unit.counting import calls


def trajectory_of(values: list[tuple[str, str, int]], **more: object) -> Trajectory:
    """Build a trajectory of (dtype, bits, optimizer steps taken since the loss before)."""
    losses = []
    at = 0
    for step, (dtype, bits, taken) in enumerate(values):
        at += taken
        losses.append(Loss(step=step, optimizer_step=at, dtype=dtype, bits=bits))
    settings = {"optimizer_steps": at + 1, "weights": None, "complete": True, **more}
    return Trajectory(losses=tuple(losses), **settings)  # type: ignore[arg-type]


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    one = st.sampled_from(sorted(WIDTHS)).flatmap(
        lambda dtype: st.tuples(
            st.just(dtype),
            st.binary(min_size=WIDTHS[dtype], max_size=WIDTHS[dtype]).map(bytes.hex),
            st.integers(0, 2**40),
        )
    )
    digest = st.builds(
        Digest,
        optimizer_step=st.integers(0, 2**40),
        what=st.sampled_from(DIGESTED),
        optimizer=st.integers(0, 300),
        value=st.binary(min_size=8, max_size=8).map(bytes.hex),
    )
    plain = trajectory_of(
        draw(st.lists(one, max_size=30)),
        digests=tuple(sorted(draw(st.lists(digest, max_size=9)), key=lambda one: one.optimizer_step)),
        process=draw(st.integers(0, 9)),
        skipped_steps=draw(st.integers(0, 9)),
        weights=draw(st.none() | st.just("sha256:" + "ab" * 32)),
        complete=draw(st.booleans()),
    )
    seen = [draw(st.tuples(st.sampled_from(EVENTS), st.sampled_from(["1", "65536", "0.25"]))) for _ in plain.losses]
    losses = [dataclasses.replace(loss, event=a, scale=b) for loss, (a, b) in zip(plain.losses, seen, strict=True)]
    return dataclasses.replace(plain, losses=tuple(losses))


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


@pytest.mark.parametrize("work", [encode_stream, losses_tsv])
def test_packing_and_tabling_take_a_few_calls_a_loss_however_many_there_are(
    work: Callable[[Trajectory], object],
) -> None:
    fewer, more = (calls(partial(work, falling(count)))[1] for count in (1_000, 10_000))
    assert more < 10.5 * fewer
    assert more < 30 * 10_000


def test_the_table_has_a_line_a_loss() -> None:
    assert losses_tsv(falling(1000)).count("\n") == 1001


def test_the_table_has_step_bits_and_decimal() -> None:
    table = losses_tsv(trajectory_of([("float32", "3dcccccd", 0), ("float32", "7fc00000", 1)]))
    assert table == "step\tbits\tdecimal\n0\t3dcccccd\t0.1\n1\t7fc00000\tnan\n"
    assert losses_tsv(None) == "step\tbits\tdecimal\n"


def test_a_known_scale_has_its_own_column() -> None:
    scaled = trajectory_of([("float32", "47800000", 0)])
    scaled = dataclasses.replace(scaled, losses=(dataclasses.replace(scaled.losses[0], scale="65536"),))
    assert losses_tsv(scaled) == "step\tbits\tdecimal\tscale\n0\t47800000\t65536\t65536\n"


def test_the_trajectory_digest_tells_streams_steps_and_dtypes_apart() -> None:
    one = trajectory_of([("float32", "3dcccccd", 0), ("float32", "3dccccce", 1)])
    variants = [
        [one],
        [one, one],
        [dataclasses.replace(one, losses=one.losses[:1])],
        [dataclasses.replace(one, losses=one.losses[:1]), dataclasses.replace(one, losses=one.losses[1:])],
        [trajectory_of([("float32", "3dcccccd", 0), ("float32", "3dccccce", 2)])],
        [],
    ]
    digests = [trajectory_digest(variant) for variant in variants]
    assert len(set(digests)) == len(variants)
    assert all(digest.startswith("sha256:") and len(digest) == 71 for digest in digests)
    assert trajectory_digest([dataclasses.replace(one, weights="sha256:00")]) == digests[0]


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
        ({"digest_count": 1, "digests": packed(b"\0\0" + b"x" * 9)}, "they are not 1 digests"),
        ({"digests": packed(b"\0" * 10_000_000)}, "more than the 0 bytes"),
    ],
)
def test_a_damaged_or_hostile_stream_is_refused_by_name(change: dict[str, object], word: str) -> None:
    record: StreamRecord = dataclasses.replace(GOOD, **change)  # type: ignore[arg-type]
    with pytest.raises(ManifestError, match=word):
        decode_stream(record)


def test_losses_whose_optimizer_steps_fall_are_not_encoded() -> None:
    losses = (
        Loss(step=0, optimizer_step=1, dtype="float32", bits="3dcccccd"),
        Loss(step=1, optimizer_step=0, dtype="float32", bits="3dcccccd"),
    )
    with pytest.raises(ValueError, match="must not fall"):
        encode_stream(Trajectory(losses=losses, optimizer_steps=1, weights=None, complete=True))
