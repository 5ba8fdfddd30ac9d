"""Metrics on their way from the stream to the manifest: kept to the bit, refused when they are something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from reprobox.documents import write_document
from reprobox.errors import ManifestError
from reprobox.manifest.derived import last_metrics
from reprobox.manifest.format import document_digest
from reprobox.manifest.store import MANIFEST_FORMAT
from reprobox.record.streams import read_streams
from reprobox.runtime import protocol
from reprobox.trajectory.model import Trajectory
from tests.unit.test_runtime_entropy import Guest

EXAMPLE = Path(__file__).parent.parent / "assets" / "manifest-1.yaml"


def read(folder: Path, *lines: str) -> Trajectory:
    (folder / "stream-000.records").write_text(protocol.STREAM_HEADER + "".join(line + "\n" for line in lines))
    return read_streams(folder)[0]


def test_the_last_value_of_each_name_is_kept_as_the_decimal_that_names_its_bits(tmp_path: Path) -> None:
    stream = read(
        tmp_path,
        "metric\taccuracy\t0\t-\tfloat64\t3fe0000000000000",
        "loss\t0\t0\tfloat32\t3f800000",
        "metric\taccuracy\t1\t-\tfloat32\t3f733333",
        "metric\ttest/loss\t1\t7\tbfloat16\t7f80",
        "end",
    )
    assert last_metrics((stream,), {}) == {"accuracy": "0.95", "test/loss": "inf"}
    assert (list(stream.metrics["accuracy"].at), list(stream.metrics["test/loss"].steps)) == ([0, 1], [7])
    assert (len(stream.losses), stream.complete, stream.damage) == (1, True, None)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("metric\taccuracy\t0\t-\tfloat64", "not a record of the kind metric"),
        ("metric\t\t0\t-\tfloat64\t3fe0000000000000", "not a record of the kind metric"),
        ("metric\ta\x1b[0m\t0\t-\tfloat64\t3fe0000000000000", "a name that cannot be printed"),
        ("metric\taccuracy\t0\t-\tint64\t3fe0000000000000", "not a record of the kind metric"),
        ("metric\taccuracy\t0\t-\tfloat32\t3fe0000000000000", "not the bits of a float32"),
    ],
)
def test_a_damaged_metric_ends_the_stream_there(tmp_path: Path, line: str, problem: str) -> None:
    damage = read(tmp_path, line).damage
    assert damage is not None
    assert problem in damage


def test_a_stream_cannot_flood_the_manifest_with_names(tmp_path: Path) -> None:
    stream = read(tmp_path, *(f"metric\tm{number}\t0\t-\tfloat64\t3fe0000000000000" for number in range(1001)))
    assert stream.damage is not None
    assert len(stream.metrics) == 1000


@pytest.mark.parametrize("metrics", [{"accuracy": "high"}, {"accuracy": 1}, {"accuracy": None}, ["0.5"], None])
def test_a_manifest_with_other_metrics_is_refused(metrics: Any) -> None:
    data = yaml.safe_load(EXAMPLE.read_bytes())
    data["result"]["metrics"] = metrics
    data["digest"] = document_digest(data)
    with pytest.raises(ManifestError, match="metrics"):
        MANIFEST_FORMAT.read(write_document(data))


def test_a_program_without_torch_can_log_too(tmp_path: Path) -> None:
    code = "import time\nfrom reprobox.runtime import log\nlog(accuracy=0.5)\ntime.sleep(0.3)\nlog(accuracy=0.75)\n"
    Guest(tmp_path).run(code)
    stream = read_streams(tmp_path / "record")[0]
    assert (last_metrics((stream,), {}), stream.complete) == ({"accuracy": "0.75"}, True)
