"""The hooks into loggers, with stand-ins for the loggers: a hook fails alone, is not seen, and records a value once.

The real ones are tried in tests/integration/test_capture_metrics.py.
"""

from __future__ import annotations

import math
import struct
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reprobox.runtime import metrics
from reprobox.runtime.loggers import Loggers


class Record:
    """Stands for the recorder of a run."""

    def __init__(self) -> None:
        self.found: list[tuple[str, float, int | None]] = []
        self.warnings: list[str] = []

    def metric(self, name: str, dtype: str, bits: str, step: int | None = None) -> None:
        layout = {"float16": ">e", "float32": ">f", "float64": ">d"}[dtype]
        self.found.append((name, struct.unpack(layout, bytes.fromhex(bits))[0], step))

    def warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Record:
    monkeypatch.setattr(metrics, "_names", set())
    return Record()


WRITER = """
class SummaryWriter:
    def __init__(self):
        self.got = []
        self.within = None
    def add_scalar(self, tag, scalar_value, global_step=None, walltime=None):
        self.got.append((tag, scalar_value, global_step))
        if self.within:
            self.within()
        if isinstance(scalar_value, str):
            raise ValueError("a text")
        return "returned"
    def add_scalars(self, main_tag, tag_scalar_dict, global_step=None, walltime=None):
        for tag, value in tag_scalar_dict.items():
            self.add_scalar(main_tag + "_" + tag, value, global_step)
"""


@pytest.fixture
def writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: Record) -> Iterator[Any]:
    """A writer of a tensorboardX that is imported after the hooks were set."""
    package = tmp_path / "tensorboardX"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "writer.py").write_text(WRITER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    Loggers(record).install()  # type: ignore[arg-type]
    module = __import__("tensorboardX.writer").writer
    yield module.SummaryWriter()
    for name in ("tensorboardX", "tensorboardX.writer"):
        del sys.modules[name]


def test_what_a_logger_is_given_reaches_it_and_the_record(writer: Any, record: Record) -> None:
    assert writer.add_scalar("acc", 0.5, 3) == "returned"
    writer.add_scalar(tag="late", scalar_value=True, global_step=2.0)
    writer.add_scalars("main", {"a": 1, "b": math.inf}, 4)
    expected = [("acc", 0.5, 3), ("late", 1.0, 2), ("main/a", 1.0, 4), ("main/b", math.inf, 4)]
    assert record.found == expected
    assert writer.got == [("acc", 0.5, 3), ("late", True, 2.0), ("main_a", 1, 4), ("main_b", math.inf, 4)]
    assert record.warnings == []


@pytest.mark.parametrize("step", [None, "7", 2.5, math.nan, 10**15, [1], object()])
def test_a_step_that_is_no_whole_number_is_none(writer: Any, record: Record, step: object) -> None:
    writer.add_scalar("acc", 0.5, step)
    assert record.found == [("acc", 0.5, None)]


def test_what_is_no_number_is_passed_over(writer: Any, record: Record) -> None:
    for value in (None, [1.0], (1,), {"a": 1}, b"1", 1j, object()):
        writer.add_scalar("x", value)
    assert (record.found, record.warnings, len(writer.got)) == ([], [], 7)


@pytest.mark.parametrize(
    ("value", "number"), [(2**53 + 1, 2.0**53), (10**400, math.inf), (-(10**400), -math.inf), (-0.0, -0.0)]
)
def test_a_whole_number_becomes_the_nearest_that_there_is(
    writer: Any, record: Record, value: float, number: float
) -> None:
    writer.add_scalar("x", value)
    assert [(found, math.copysign(1, found)) for _, found, _ in record.found] == [(number, math.copysign(1, number))]


def test_what_the_logger_raises_is_raised_without_a_frame_of_ours(writer: Any, record: Record) -> None:
    with pytest.raises(ValueError, match="a text") as caught:
        writer.add_scalar("x", "0.5")
    files = [frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert files == [__file__, sys.modules["tensorboardX.writer"].__file__]
    writer.add_scalar("y", 0.5)
    assert record.found == [("y", 0.5, None)], "the hook is out of the logger again"


def test_a_call_that_the_hook_does_not_understand_is_the_loggers_affair(writer: Any, record: Record) -> None:
    with pytest.raises(TypeError, match="add_scalar"):
        writer.add_scalar()
    with pytest.raises(AttributeError):
        writer.add_scalars("main", None)
    assert len(record.warnings) == 2
    assert "what is logged by SummaryWriter.add_scalar is not recorded: TypeError" in record.warnings[0]


def test_a_failure_of_the_record_never_reaches_the_program(writer: Any, record: Record) -> None:
    record.metric = None  # type: ignore[method-assign, assignment]
    assert writer.add_scalar("acc", 0.5) == "returned"
    assert "TypeError" in record.warnings[0]


def test_what_is_logged_within_a_logger_is_recorded_once_but_another_threads_is_its_own(
    writer: Any, record: Record
) -> None:
    def in_a_thread() -> None:
        thread = threading.Thread(target=writer.add_scalar, args=("other", 2.0))
        writer.within = None
        thread.start()
        thread.join()

    def in_the_same() -> None:
        writer.within = None
        writer.add_scalar("inner", 1.0)

    writer.within = in_the_same
    writer.add_scalar("outer", 1.0)
    writer.within = in_a_thread
    writer.add_scalar("outer", 3.0)
    assert record.found == [("outer", 1.0, None), ("outer", 3.0, None), ("other", 2.0, None)]
    assert [tag for tag, _, _ in writer.got] == ["outer", "inner", "outer", "other"]


def test_a_program_has_at_most_a_thousand_names(writer: Any, record: Record) -> None:
    for number in range(1100):
        writer.add_scalar(f"n{number}", 1.0)
    writer.add_scalar("n7", 2.0)
    assert (len(record.found), record.found[-1]) == (1001, ("n7", 2.0, None))
    assert record.warnings == ["more than 1000 names of metrics were logged: the others are not recorded"]


def test_a_logger_of_another_make_is_said_and_imported_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: Record
) -> None:
    package = tmp_path / "tensorboardX"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "writer.py").write_text("class Other:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    Loggers(record).install()  # type: ignore[arg-type]
    assert __import__("tensorboardX.writer").writer.Other
    del sys.modules["tensorboardX"], sys.modules["tensorboardX.writer"]
    (warning,) = record.warnings
    assert warning.startswith("what is logged by tensorboardX.writer is not recorded: AttributeError: ")
