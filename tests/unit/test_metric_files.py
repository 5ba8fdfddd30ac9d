"""Files of metrics: every number is found under the name that a person would look for, and nothing that the program can
leave there harms the reader.
"""

from __future__ import annotations

import json
import math
import os
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from reprobox.record import metric_files
from reprobox.record.metric_files import MetricFile, Value, read_metric_file
from reprobox.runtime.metrics import NAME
from reprobox.spec import METRIC_FILES


def read(folder: Path, name: str, content: str | bytes) -> MetricFile:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_metric_file(folder, name)


def values(folder: Path, name: str, content: str | bytes) -> dict[str, list[Value]]:
    """Return what was read without any warning, by the name within the file."""
    found = read(folder, name, content)
    assert found.warnings == ()
    return {name.partition(":")[2]: list(values) for name, values in found.values}


def warned(folder: Path, name: str, content: str | bytes) -> tuple[dict[str, list[Value]], str]:
    """Return what was read, and the one thing that was wrong."""
    found = read(folder, name, content)
    (warning,) = found.warnings
    assert warning.startswith(f"{name}: ")
    return {name.partition(":")[2]: list(values) for name, values in found.values}, warning.partition(": ")[2]


def test_numbers_in_maps_are_named_by_their_keys_and_those_in_lists_are_numbered_by_steps(tmp_path: Path) -> None:
    content = {
        "accuracy": 0.97,
        "test": {"loss": 1, "by class": [0.5, 0.25], "passed": True, "note": "7", "missing": None},
        "history": [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25, "late": 3}],
        "confusion": [[8, 1], [2, 9]],
        "epoch": 3,
    }
    expected = {
        "accuracy": [(None, 0.97)],
        "test.loss": [(None, 1.0)],
        "test.by class": [(0, 0.5), (1, 0.25)],
        "test.passed": [(None, 1.0)],
        "history.loss": [(1, 0.5), (2, 0.25)],
        "history.late": [(2, 3.0)],
        "confusion.0": [(0, 8.0), (1, 2.0)],
        "confusion.1": [(0, 1.0), (1, 9.0)],
        "epoch": [(None, 3.0)],
    }
    assert values(tmp_path, "m.json", json.dumps(content)) == expected
    assert values(tmp_path, "m.yaml", yaml.safe_dump(content)) == expected
    assert values(tmp_path, "m.yml", json.dumps(content, indent=2)) == expected


def test_a_name_begins_with_the_file_that_it_is_from(tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "a.json").write_text('{"b": {"c": 1}}')
    assert read_metric_file(tmp_path, "outputs/a.json").values == (("outputs/a.json:b.c", ((None, 1.0),)),)
    (tmp_path / "outputs" / "a.json").write_text("0.5")
    assert read_metric_file(tmp_path, "outputs/a.json").values == (("outputs/a.json", ((None, 0.5),)),)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", "epoch,loss,val.acc\n1,0.5,\n2,0.25,0.75\n"),
        ("m.csv", '\ufeff"epoch" , "loss","val.acc"\r\n1,0.5,\r\n\r\n2,0.25,0.75'),
        ("m.csv", ",epoch,loss,val.acc,note\n0,1,0.5,,a\n1,2,0.25,0.75,b\n"),
        ("m.csv", "epoch;loss;val.acc\n1;0.5;\n2;0.25;0.75\n"),
        ("m.tsv", "epoch\tloss\tval.acc\n1\t0.5\t\n2\t0.25\t0.75\n"),
        ("m.jsonl", '{"epoch": 1, "loss": 0.5}\n\n{"epoch": 2, "loss": 0.25, "val": {"acc": 0.75}}\n'),
        ("m.ndjson", '{"loss": 0.5, "epoch": 1.0}\r\n{"val": {"acc": 0.75}, "loss": 0.25, "epoch": 2}'),
    ],
)
def test_rows_are_values_by_the_step_that_they_tell(tmp_path: Path, name: str, content: str) -> None:
    assert values(tmp_path, name, content) == {"loss": [(1, 0.5), (2, 0.25)], "val.acc": [(2, 0.75)]}


def test_rows_without_a_step_are_counted_and_the_finest_step_counts(tmp_path: Path) -> None:
    assert values(tmp_path, "m.csv", "loss\n0.5\n0.25\n") == {"loss": [(0, 0.5), (1, 0.25)]}
    assert values(tmp_path, "m.csv", "0.5,1\n0.25,2\n") == {"0": [(0, 0.5), (1, 0.25)], "1": [(0, 1.0), (1, 2.0)]}
    # As Hugging Face's Trainer keeps its history: a part of an epoch is no step.
    rows = '{"epoch": 0.5, "step": 10, "loss": 1}\n{"epoch": 0.75, "loss": 2}\n'
    assert values(tmp_path, "m.jsonl", rows) == {"epoch": [(10, 0.5), (1, 0.75)], "loss": [(10, 1.0), (1, 2.0)]}


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e-5", 1e-5), ("-0.0", -0.0), ("5.", 5.0), (".5", 0.5), ("007", 7.0), ("+3", 3.0), ("1.0e+3", 1000.0)],
)
def test_yaml_and_tables_mean_by_a_number_what_people_mean(tmp_path: Path, text: str, number: float) -> None:
    assert values(tmp_path, "m.yaml", f"a: {text}\nb: '{text}'\nc: !!float {text}\n") == {
        "a": [(None, number)],
        "c": [(None, number)],
    }
    assert values(tmp_path, "m.csv", f"a\n {text}\n") == {"a": [(0, number)]}


def test_infinity_and_nan_are_numbers(tmp_path: Path) -> None:
    for name, content in (
        ("m.json", "[NaN, Infinity, -Infinity]"),
        ("m.yaml", "[.nan, .inf, -.inf]"),
        ("m.csv", "m\nnan\nInf\n-inf\n"),
    ):
        ((_, found),) = read(tmp_path, name, content).values
        assert math.isnan(found[0][1])
        assert [number for _, number in found[1:]] == [math.inf, -math.inf]


@pytest.mark.parametrize(
    ("name", "content", "expected", "problem"),
    [
        ("m.json", "", {}, "it is empty"),
        ("m.csv", " \n\n", {}, "it is empty"),
        ("m.json", '{"a": "1"}', {}, "it holds no number"),
        ("m.json", "null", {}, "it holds no number"),
        ("m.json", '{"a": 1,\n "b": }', {}, "it is not JSON: line 2, column 7: Expecting value"),
        ("m.jsonl", '{"a": 1}\n{"a": \n{"a": 3}\n', {"a": [(0, 1.0), (2, 3.0)]}, "it is not JSON: line 2, column"),
        ("m.yaml", "a: 1\nb: [2\n", {}, "it is not YAML: line "),
        ("m.yaml", "a: \x07\n", {}, "it is not YAML: it holds a control character"),
        ("m.yaml", "a: 1\n---\na: 2\n", {"a": [(None, 1.0)]}, "it holds more than one document"),
        ("m.yaml", "a: &x 1\nb: *x\n", {"a": [(None, 1.0)]}, "an alias is left out"),
        ("m.yaml", "a: 1\nb: !!python/object/apply:os.system [x, 3]\n", {"a": [(None, 1.0)]}, "what has the tag tag:y"),
        ("m.yaml", "[1, 2]: 3\n{a: 4}: {b: 5}\nc: 6\n", {"c": [(None, 6.0)]}, "what has a list or a map as its key"),
        ("m.yaml", "a: 1\na: 2\n", {"a": [(None, 2.0)]}, "a key stands twice in one map; its last value counts"),
        ("m.json", '{"a": 1, "a": 2}', {"a": [(None, 2.0)]}, "a key stands twice in one map; its last value counts"),
        ("m.csv", "a,a,b\n1,2,3\n", {"a": [(0, 1.0)], "b": [(0, 3.0)]}, "two columns have the same name"),
        ("m.csv", "a,b\n1,2,3\n4\n", {"a": [(0, 1.0), (1, 4.0)], "b": [(0, 2.0)]}, "a row has more cells"),
        ("m.csv", f"a\n1\n{'x' * 200_000}\n", {"a": [(0, 1.0)]}, "it is not a table: line 3: field larger"),
        ("m.json", f'{{"a": {2**53 + 1}}}', {"a": [(None, 2.0**53)]}, "a whole number has more digits than a float64"),
        ("m.json", f'{{"a": {"9" * 9000}}}', {"a": [(None, math.inf)]}, "a number is too large for a float64"),
        ("m.yaml", "a: -1e999", {"a": [(None, -math.inf)]}, "a number is too large for a float64"),
        ("m.json", b'{"\xff": 1}', {"\\ufffd": [(None, 1.0)]}, "it is not UTF-8 text; what is not was replaced"),
        ("m.txt", "1", {}, "its name ends in none of json"),
    ],
)
def test_what_is_wrong_is_said_and_the_rest_is_read(
    tmp_path: Path, name: str, content: str | bytes, expected: dict[str, list[Value]], problem: str
) -> None:
    found, warning = warned(tmp_path, name, content)
    assert found == expected
    assert problem in warning


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_how_the_text_is_written(tmp_path: Path, encoding: str) -> None:
    assert values(tmp_path, "m.json", '{"café": 1}'.encode(encoding)) == {"café": [(None, 1.0)]}


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("m.json", '{"a": ' * 40 + "1" + "}" * 40, "deeper than 32 levels"),
        ("m.yaml", "[" * 40 + "1" + "]" * 40, "deeper than 32 levels"),
        ("m.json", "[" * 1_000_000 + "1" + "]" * 1_000_000, "nested too deeply"),
        ("m.jsonl", "[" * 1_000_000, "nested too deeply"),
        ("m.yaml", "[" * 1_000_000, ""),
        ("m.yaml", "{a: " * 100_000, ""),
        ("m.json", "[" + "[]," * 4_000_001 + "1]", "more than 4,000,000 entries"),
        ("m.yaml", "- a\n" * 500_001, "more than 500,000 entries"),
        ("m.csv", "," * 4_000_001, "more than 4,000,000 entries"),
        ("m.json", "[" + "1," * 1_000_001 + "1]", "more than 1,000,000 numbers"),
        ("m.json", json.dumps(dict.fromkeys(map(str, range(1001)), 1)), "more than 1,000 names"),
        ("m.csv", ",".join(f"c{n}" for n in range(2000)) + "\n" + ",".join("1" * 2000), "more than 1,000 names"),
        ("m.json", "1" + " " * 64_000_000, "larger than 64 MB"),
    ],
)
def test_a_file_that_is_made_to_be_too_much_is_not_too_much(
    tmp_path: Path, name: str, content: str, problem: str
) -> None:
    found = read(tmp_path, name, content)
    assert any(problem in warning for warning in found.warnings)
    assert len(found.warnings) <= 20
    assert len(found.values) <= 1000


def test_a_file_of_nothing_but_mistakes_has_few_warnings(tmp_path: Path) -> None:
    assert len(read(tmp_path, "m.jsonl", "{\n" * 5000).warnings) == 20


def test_nothing_outside_the_folder_is_read_and_no_link_is_followed(tmp_path: Path) -> None:
    work, outside = tmp_path / "work", tmp_path / "outside"
    work.mkdir()
    outside.mkdir()
    (outside / "m.json").write_text('{"secret": 1}')
    (work / "m.json").symlink_to(outside / "m.json")
    (work / "linked").symlink_to(outside)
    (work / "inside").mkdir()
    (work / "inside" / "m.json").symlink_to(work / "real.json")
    (work / "real.json").write_text('{"a": 1}')
    (work / "folder.json").mkdir()
    os.mkfifo(work / "pipe.json")
    for path in (
        "m.json",
        "linked/m.json",
        "inside/m.json",
        "real.json/m.json",
        "folder.json",
        "pipe.json",
        "absent.json",
        "absent/m.json",
        "../outside/m.json",
        str(outside / "m.json"),
        "./real.json",
        "inside//m.json",
        "\0.json",
        "x" * 300 + ".json",
        "",
    ):
        found = read_metric_file(work, path)
        assert found.values == ()
        assert len(found.warnings) == 1, path
    assert read_metric_file(work, "real.json").values
    assert not read_metric_file(tmp_path / "absent", "real.json").values


def test_a_file_that_nobody_may_read_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(metric_files.os, "open", refused)
    assert read_metric_file(tmp_path, "m.json").warnings == ("m.json: it cannot be read: Permission denied",)


numbers = st.floats(allow_nan=False) | st.integers(-(2**53), 2**53) | st.booleans()
keys = st.text(st.characters(codec="utf-8", exclude_characters="."), min_size=1, max_size=8)
trees = st.recursive(
    numbers | st.none() | st.text(max_size=4),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(keys, below, max_size=4),
    max_leaves=20,
)


def leaves(node: Any) -> list[float]:
    if isinstance(node, dict):
        return [number for value in node.values() for number in leaves(value)]
    if isinstance(node, list):
        return [number for value in node for number in leaves(value)]
    return [] if node is None or isinstance(node, str) else [float(node)]


@given(trees)
def test_every_number_of_a_tree_is_found_once(tmp_path_factory: pytest.TempPathFactory, tree: Any) -> None:
    folder = tmp_path_factory.getbasetemp()
    expected = sorted(leaves(tree))
    for name, content in (("t.json", json.dumps(tree)), ("t.yaml", yaml.safe_dump(tree, allow_unicode=True))):
        found = read(folder, name, content)
        numbers = [number for _, values in found.values for _, number in values]
        steps = len(rows_with_steps(tree))
        assert len(numbers) == len(expected) - steps
        if not steps:
            assert sorted(numbers) == expected


def rows_with_steps(node: Any, in_row: bool = False) -> list[str]:
    """Return the keys that are taken as steps: at most one a row of an outermost list."""
    found = []
    if isinstance(node, list):
        for item in node:
            if isinstance(item, dict) and not in_row:
                whole = [
                    key
                    for key in ("global_step", "step", "epoch")
                    if type(item.get(key)) in (int, float) and float(item[key]).is_integer() and abs(item[key]) < 10**15
                ]
                found += whole[:1]
            found += rows_with_steps(item, True)
    elif isinstance(node, dict):
        for value in node.values():
            found += rows_with_steps(value, in_row)
    return found


@given(st.sampled_from(METRIC_FILES), st.binary(max_size=400) | st.text(max_size=200).map(str.encode))
def test_no_content_is_an_error(tmp_path_factory: pytest.TempPathFactory, ending: str, content: bytes) -> None:
    found = read(tmp_path_factory.getbasetemp(), f"b.{ending}", content)
    assert found.values or found.warnings
    assert all(NAME.fullmatch(name) for name, _ in found.values)
    assert all(warning.isprintable() for warning in found.warnings)


@given(st.sampled_from(METRIC_FILES), trees, st.randoms(use_true_random=False))
def test_no_damage_to_a_good_file_is_an_error(
    tmp_path_factory: pytest.TempPathFactory, ending: str, tree: Any, chance: random.Random
) -> None:
    content = bytearray(json.dumps(tree).encode())
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(content))
        harm = chance.choice([b"", b"\xff", b"{", b"[", b"\n", b'"', b"&a", b"*a", b","])
        content[at : at + chance.randint(0, 2)] = harm
        content = content or bytearray(b" ")
    found = read(tmp_path_factory.getbasetemp(), f"d.{ending}", bytes(content))
    assert found.values or found.warnings
