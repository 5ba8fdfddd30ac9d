"""What the runtime wrote is read as it grows; whatever else lies in the record folder does no harm."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox.record.streams import StreamTail, _Stream, read_streams
from reprobox.runtime.protocol import STREAM_HEADER
from reprobox.trajectory.model import combined_weights

WEIGHTS = "sha256:" + "ab" * 32
GOOD = (
    STREAM_HEADER
    + "process\troot\nloss\t0\t0\tfloat32\t3dcccccd\noptimizer\t0\t0\tSGD\nstep\t0\t0\n"
    + "loss\t1\t1\tfloat32\t3dccccce\nstep\t1\t0\n"
    + f"final\t0\t{WEIGHTS}\nend\n"
)


def write(record: Path, text: str, number: int = 0) -> Path:
    path = record / f"stream-{number:03d}.records"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_whole_stream_is_read_with_steps_weights_and_end(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    (stream,) = read_streams(tmp_path)
    assert [(one.step, one.optimizer_step, one.dtype, one.bits) for one in stream.losses] == [
        (0, 0, "float32", "3dcccccd"),
        (1, 1, "float32", "3dccccce"),
    ]
    assert (stream.optimizer_steps, stream.weights, stream.complete) == (2, combined_weights([WEIGHTS]), True)
    assert stream.damage is None


def test_a_folder_without_streams_or_no_folder_gives_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert read_streams(tmp_path) == ()
    assert read_streams(tmp_path / "missing") == ()


def test_streams_are_sorted_by_number_beyond_three_digits(tmp_path: Path) -> None:
    for number in (1000, 2, 999):
        write(tmp_path, STREAM_HEADER + f"loss\t0\t0\tbfloat16\t{number:04x}\nend\n", number)
    assert [stream.losses[0].bits for stream in read_streams(tmp_path)] == ["0002", "03e7", "03e8"]


def test_unknown_kinds_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path, GOOD.replace("step\t0", "gradient\t0\tsha256:00\nstep\t0"))
    (stream,) = read_streams(tmp_path)
    assert stream.complete
    assert len(stream.losses) == 2


def test_unknown_kinds_of_digests_are_kept(tmp_path: Path) -> None:
    write(tmp_path, GOOD.replace("final", "digest\t1\tweather\t0\t2\t0123456789abcdef\nfinal"))
    (stream,) = read_streams(tmp_path)
    assert [(one.what, one.round, one.value) for one in stream.digests] == [("weather", 2, "0123456789abcdef")]


def test_a_half_written_last_line_waits_for_its_newline(tmp_path: Path) -> None:
    write(tmp_path, STREAM_HEADER + "loss\t0\t0\tfloat32\t3dcccccd\nloss\t1\t1\tfloat32\t3dcc")
    (stream,) = read_streams(tmp_path)
    assert len(stream.losses) == 1
    assert not stream.complete
    assert stream.damage is None


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("loss\t1\t1\tfloat32\t3dcc", "not the bits of a float32"),
        ("loss\t1\t1\tfloat32\t3DCCCCCD", "not a record of the kind loss"),
        ("loss\t1\t1\tint8\t00", "not a record of the kind loss"),
        ("loss\t2\t1\tfloat32\t3dcccccd", "loss 2 where loss 1 was expected"),
        ("loss\t1\t-1\tfloat32\t3dcccccd", "not a record of the kind loss"),
        ("loss\t1", "not a record of the kind loss"),
        ("step\tx\t0", "not a record of the kind step"),
        ("step\t0\t0", "optimizer 0, of which nothing is known"),
        ("final\t3\tsha256:" + "0" * 64, "optimizer 3, of which nothing is known"),
        ("optimizer\t1\t0\tSGD", "where 0 was expected"),
        ("optimizer\t0\t1\tSGD", "optimizer 0 of training 1"),
        ("end\tabc", "not a record of the kind end"),
        ("tensor\t0\tstate\t-\tna\x1bme\t0123456789abcdef", "a name that cannot be printed: na\\x1bme"),
        ("metric\ta\t5\t-\tfloat64\t3fe0", "not the bits of a float64"),
        ("x" * 70_000, "longer than"),
    ],
)
def test_a_damaged_line_ends_the_stream_there_and_is_named(tmp_path: Path, line: str, problem: str) -> None:
    path = write(tmp_path, "")
    path.write_bytes((STREAM_HEADER + "loss\t0\t0\tfloat32\t3dcccccd\n").encode() + line.encode("latin-1") + b"\nend\n")
    (stream,) = read_streams(tmp_path)
    assert len(stream.losses) == 1
    assert not stream.complete
    assert stream.damage is not None
    assert stream.damage.startswith("stream-000.records, line 3: ")
    assert problem in stream.damage


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("reprobox-stream\t2\nend\n", "stream version '2', this reprobox reads 1"),
        ("hello\n", "not a reprobox stream"),
        (GOOD + "loss\t2\t2\tfloat32\t3dcccccd\n", "a record after the end"),
        (STREAM_HEADER + "x" * 3_000_000, "longer than"),
    ],
)
def test_a_file_that_is_no_stream_of_this_version_says_so(tmp_path: Path, text: str, problem: str) -> None:
    write(tmp_path, text)
    (stream,) = read_streams(tmp_path)
    assert stream.damage is not None
    assert problem in stream.damage
    assert not stream.complete
    assert stream.weights is None


def test_optimizer_steps_that_fall_are_damage(tmp_path: Path) -> None:
    write(tmp_path, STREAM_HEADER + "loss\t0\t5\tfloat32\t3dcccccd\nloss\t1\t4\tfloat32\t3dcccccd\n")
    (stream,) = read_streams(tmp_path)
    assert stream.damage == "stream-000.records, line 3: optimizer step 4 after 5"


def test_events_scales_skipped_steps_and_digests_are_read(tmp_path: Path) -> None:
    write(
        tmp_path,
        STREAM_HEADER
        + "loss\t0\t0\tfloat32\t3dcccccd\tgrad\t65536\n"
        + "optimizer\t0\t0\tSGD\nskip\t0\t0\nstep\t0\t0\n"
        + "digest\t0\tgradients\t0\t1\t0123456789abcdef\ndigest\t0\trng\t0\t1\tffffffffffffffff\nend\n",
        3,
    )
    (stream,) = read_streams(tmp_path)
    assert (stream.losses[0].event, stream.losses[0].scale) == ("grad", "65536")
    assert (stream.process, stream.optimizer_steps, stream.skipped_steps) == (3, 1, 1)
    assert [(one.what, one.value) for one in stream.digests] == [
        ("gradients", "0123456789abcdef"),
        ("rng", "ffffffffffffffff"),
    ]
    assert stream.complete


@pytest.mark.parametrize(
    "line",
    [
        "loss\t0\t0\tfloat32\t3dcccccd\tlooked\t1",
        "loss\t0\t0\tfloat32\t3dcccccd\tgrad\t0",
        "loss\t0\t0\tfloat32\t3dcccccd\tgrad\tinf",
        "loss\t0\t0\tfloat32\t3dcccccd\tgrad",
        "skip\tx\t0",
        "digest\t0\tWEATHER\t0\t1\t0123456789abcdef",
        "digest\t0\tweights\t0\t1\t0123",
        "tensor\t0\tshape\t0\tname\t0123456789abcdef",
        "process\tking",
    ],
)
def test_a_damaged_event_skip_or_digest_ends_the_stream_there(tmp_path: Path, line: str) -> None:
    write(tmp_path, STREAM_HEADER + line + "\nend\n")
    (stream,) = read_streams(tmp_path)
    assert stream.damage is not None
    assert "line 2" in stream.damage
    assert not stream.complete


def test_links_and_pipes_that_the_program_planted_are_not_opened(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text(GOOD)
    record = tmp_path / "record"
    record.mkdir()
    (record / "stream-000.records").symlink_to(outside)
    os.mkfifo(record / "stream-001.records")
    (record / "stream-002.records").mkdir()
    streams = read_streams(record)
    assert [len(stream.losses) for stream in streams] == [0, 0, 0]
    assert all(stream.damage for stream in streams)


def test_a_tail_gives_each_loss_once_while_the_stream_grows(tmp_path: Path) -> None:
    tail = StreamTail(tmp_path)
    assert tail.news() == ()
    path = write(tmp_path, GOOD[:70])
    first = [loss.step for news in tail.news() for loss in news.trajectory.losses]
    with path.open("a") as handle:
        handle.write(GOOD[70:])
    write(tmp_path, STREAM_HEADER + "loss\t0\t0\tfloat64\t3fb999999999999a\n", 1)
    later = tail.news()
    assert first == [0]
    assert [(news.process, news.losses, len(news.trajectory.losses)) for news in later] == [(0, 1, 2), (1, 0, 1)]
    assert tail.news() == ()
    assert tail.trajectories() == read_streams(tmp_path)


@given(cuts=st.lists(st.integers(0, len(GOOD)), max_size=6))
def test_it_does_not_matter_in_which_pieces_a_stream_arrives(cuts: list[int]) -> None:
    stream = _Stream(Path("stream-000.records"), 0)
    places = [0, *sorted(cuts), len(GOOD)]
    for start, end in itertools.pairwise(places):
        stream._take(GOOD[start:end].encode())
    assert [loss.bits for loss in stream.losses] == ["3dcccccd", "3dccccce"]
    assert stream.complete


def test_a_module_that_was_made_again_is_known_by_its_last_state(tmp_path: Path) -> None:
    lines = [f"tensor\t{at}\tstate\t0\tNet.weight\t{at:016x}\n" for at in (1, 2, 3)]
    write(tmp_path, GOOD.replace("final", "".join(lines) + "final"))
    (stream,) = read_streams(tmp_path)
    assert [(one.optimizer_step, one.value) for one in stream.tensors] == [(3, f"{3:016x}")]


@pytest.mark.parametrize("last", ["loss\t2\t2\tfloat32\t3dcccccd\tgrad\t{}", "metric\tm{}\t2\t-\tfloat32\t3dcccccd"])
def test_no_stream_holds_more_names_or_scales_than_a_training_has(
    tmp_path: Path, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reprobox.record.streams._MOST_SCALES", 0)
    many = "".join(last.format(number + 1) + "\n" for number in range(1001))
    write(tmp_path, GOOD.replace("final", many + "final"))
    (stream,) = read_streams(tmp_path)
    assert stream.damage is not None
    assert "more than" in stream.damage
    assert len(stream.losses) == 2


def test_a_sparse_file_of_gigabytes_is_read_no_further_than_a_line(tmp_path: Path) -> None:
    with write(tmp_path, "").open("r+b") as handle:
        handle.truncate(3 << 30)
    (stream,) = read_streams(tmp_path)
    assert stream.damage is not None
    assert "longer than 65536 bytes" in stream.damage
