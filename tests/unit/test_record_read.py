"""Whatever the confined program writes into its record: it is read, left out with a warning, and costs nothing else."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox.record.facts import plain_tree, read_facts
from reprobox.record.read import read_record
from reprobox.runtime.protocol import STREAM_HEADER

GOOD_STREAM = STREAM_HEADER + "process\troot\nloss\t0\t0\tfloat32\t3dcccccd\nend\n"


def text(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content)


def sparse(path: Path) -> None:
    with path.open("wb") as handle:
        handle.truncate(3 << 30)


# Of each: what the program leaves in the place of its facts, and what is said of it.
HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "fifo": (os.mkfifo, "not a plain file"),
    "endless": (lambda path: path.symlink_to("/dev/zero"), "cannot be read"),
    "link": (lambda path: path.symlink_to("/etc/passwd"), "cannot be read"),
    "folder": (Path.mkdir, "cannot be read: Is a directory"),
    "sparse": (sparse, "larger than"),
    "cut": (text("{"), "not JSON"),
    "list": (text("[]"), "not a JSON object"),
    "deep": (text("[" * 100_000), ""),
    "latin": (lambda path: path.write_bytes(b'{"warnings": ["\xe9"]}'), ""),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("name", ["facts-000.json", "entropy-1-2.json", "worker-1-2.json"])
def test_a_file_that_is_none_is_left_out_and_named(tmp_path: Path, kind: str, name: str) -> None:
    make, reason = HOSTILE[kind]
    (tmp_path / "stream-000.records").write_text(GOOD_STREAM)
    make(tmp_path / name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = read_record(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "KiB"
    assert len(found.trajectories[0].losses) == 1
    (warning,) = found.warnings
    assert warning.startswith(f"{name} was left out of the record: ")
    assert reason in warning


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"software": {"evil": "1", "torch": "2.13.0"}},
        {"software": {"python": 3, "torch": "2.13.0"}},
        {"software": {"torch": "2.13.0", "numpy": "\x1b[31m"}},
        {"software": [], "determinism": [1], "data_loaders": {"a": 1}, "warnings": {"b": 2}},
        {"warnings": [1, 2, None, {}], "data_loaders": [1, {"where": 2, "base_seeds": 3}]},
    ],
)
def test_facts_of_wrong_types_are_left_out_one_by_one(tmp_path: Path, facts: dict[str, object]) -> None:
    (tmp_path / "facts-000.json").write_text(json.dumps(facts))
    found = read_facts(tmp_path, [])
    assert found.software in ({}, {"torch": "2.13.0"})
    assert found.warnings == []
    assert found.base_seeds == {}


def test_what_a_process_reports_is_printable_and_has_an_end(tmp_path: Path) -> None:
    facts = {
        "warnings": ["one\nEXACT\x1b[0m", "w" * 5000, *(f"warning {number}" for number in range(5000))],
        "determinism": {"a\nb": {"c": [1.5, "\x85", {"d": {"e": {"f": {"g": {"h": 1}}}}}]}, "big": 10**30},
    }
    (tmp_path / "facts-000.json").write_text(json.dumps(facts))
    found = read_facts(tmp_path, [])
    assert found.warnings[0] == "one\\nEXACT\\x1b[0m"
    assert len(found.warnings) == 1000
    assert max(map(len, found.warnings)) < 600
    assert found.determinism["a\\nb"]["c"][:2] == ["1.5", "\\x85"]
    assert found.determinism["big"] == str(10**30)


def test_thousands_of_files_are_read_as_far_as_a_training_goes(tmp_path: Path) -> None:
    for number in range(2100):
        (tmp_path / f"facts-{number:03d}.json").write_text('{"warnings": ["same"]}')
    warnings: list[str] = []
    assert read_facts(tmp_path, warnings).warnings == ["same"]
    assert warnings == ["2100 files facts-*.json in the record: only 2000 were read"]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=20,
)


@given(ANYTHING)
def test_any_tree_becomes_one_that_a_manifest_bears(tree: object) -> None:
    def check(value: object) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                assert key.isprintable()
                check(item)
        elif isinstance(value, list):
            for item in value:
                check(item)
        else:
            assert value is None or isinstance(value, (bool, int)) or (isinstance(value, str) and value.isprintable())

    check(plain_tree(tree))
