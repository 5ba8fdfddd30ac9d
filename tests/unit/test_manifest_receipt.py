"""The receipt: the same reading, writing and digest as the manifest, and a verdict that does not contradict itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reprobox.errors import ManifestError
from reprobox.manifest.receipt import (
    RECEIPT_FORMAT,
    Receipt,
    ToleranceRecord,
    WeightsComparison,
    dump_receipt,
    read_receipt,
    write_receipt,
)
from reprobox.manifest.store import manifest_digest, read_manifest
from reprobox.trajectory.model import Divergence, Partial, Tolerance

ASSETS = Path(__file__).parent.parent / "assets"
EXAMPLE = ASSETS / "receipt-1.yaml"


@pytest.fixture(scope="module")
def receipt() -> Receipt:
    return read_receipt(EXAMPLE)


def test_the_stored_example_of_schema_1_is_read_and_written_again_to_the_byte(receipt: Receipt, tmp_path: Path) -> None:
    assert receipt.verdict == "DIVERGED"
    assert receipt.first_divergence is not None
    assert receipt.first_divergence.ulps == 1
    write_receipt(receipt, tmp_path / "receipt.yaml")
    assert (tmp_path / "receipt.yaml").read_bytes() == EXAMPLE.read_bytes()


def test_a_receipt_names_the_manifest_that_was_judged(receipt: Receipt) -> None:
    assert receipt.manifest == manifest_digest(read_manifest(ASSETS / "manifest-1.yaml"))


def test_an_edited_verdict_shows() -> None:
    text = EXAMPLE.read_text(encoding="utf-8").replace("verdict: DIVERGED", "verdict: INCOMPARABLE")
    with pytest.raises(ManifestError, match="was edited after reprobox wrote it"):
        RECEIPT_FORMAT.read(text.encode())


def test_a_manifest_is_not_a_receipt() -> None:
    with pytest.raises(ManifestError, match="is a reprobox manifest, not a receipt"):
        read_receipt(ASSETS / "manifest-1.yaml")


def test_a_receipt_cut_after_its_last_key_is_truncated() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    with pytest.raises(ManifestError, match="truncated"):
        RECEIPT_FORMAT.read(text[: text.index("seconds:") + 8].encode())


SOME = Divergence(what="metric", name="accuracy", step=1)
OTHER_WEIGHTS = WeightsComparison(recorded="sha256:" + "0" * 64, replayed="sha256:" + "1" * 64)
EXACT: dict[str, Any] = {
    "verdict": "EXACT",
    "steps_compared": 40,
    "first_divergence": None,
    "weights": WeightsComparison(recorded="sha256:" + "0" * 64, replayed="sha256:" + "0" * 64),
}


def test_a_receipt_says_exact_where_nothing_in_it_says_otherwise(receipt: Receipt) -> None:
    exact = replace(receipt, **EXACT)
    assert RECEIPT_FORMAT.read(dump_receipt(exact)) == exact
    part = replace(exact, steps_compared=12, partial=Partial(steps=12, total=40))
    assert RECEIPT_FORMAT.read(dump_receipt(part)) == part


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({**EXACT, "first_divergence": SOME}, "first_divergence: cannot be there when the verdict is EXACT"),
        ({**EXACT, "steps_compared": 39}, "steps_compared: must be steps_recorded when the verdict is EXACT"),
        ({**EXACT, "weights": OTHER_WEIGHTS}, "weights: differ, which cannot be when the verdict is EXACT"),
        ({"partial": Partial(steps=40, total=40)}, "partial: is no part"),
        ({"first_divergence": None}, "first_divergence: must be there when the verdict is DIVERGED"),
        ({"verdict": "WITHIN_TOLERANCE", "tolerance": None}, "tolerance: must be there"),
        ({"steps_compared": 41}, "steps_compared: is more than steps_recorded"),
        ({"verdict": "SAME"}, "verdict: expected one of the four verdicts"),
        ({"manifest": "manifest.yaml"}, "manifest: expected sha256: and 64 hex digits"),
        ({"tolerance": ToleranceRecord(relative="-1", absolute="0")}, "tolerance.relative: expected a decimal number"),
    ],
)
def test_a_receipt_that_contradicts_itself_is_not_written(receipt: Receipt, change: dict[str, Any], where: str) -> None:
    with pytest.raises(ManifestError) as caught:
        dump_receipt(replace(receipt, **change))
    assert caught.value.message.startswith(f"the receipt to be written: {where}")


def test_the_distance_of_two_float64_fits(receipt: Receipt) -> None:
    assert receipt.first_divergence is not None
    farthest = replace(receipt, first_divergence=replace(receipt.first_divergence, ulps=18437736874454810622))
    assert RECEIPT_FORMAT.read(dump_receipt(farthest)) == farthest


@pytest.mark.parametrize("value", [0.0, 1e-9, 1.5, 1e300, 5e-324])
def test_a_tolerance_is_written_so_that_the_same_float_comes_back(receipt: Receipt, value: float) -> None:
    record = ToleranceRecord.of(Tolerance(relative=value))
    assert float(record.relative) == value
    assert RECEIPT_FORMAT.read(dump_receipt(replace(receipt, tolerance=record))).tolerance == record
