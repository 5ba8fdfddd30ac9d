"""The explicit API without torch: seeds and their limits, configurations, verification, metrics."""

from __future__ import annotations

import json
import math
import random
import struct
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import reprobox.runtime
from reprobox.runtime import TrainingConfig, current, explicit, log, metrics, set_random_seed, verify_reproducibility
from reprobox.runtime.verification import Verification


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explicit, "_told", explicit._Told())
    monkeypatch.setattr(metrics, "_warned", False)


def test_every_name_of_the_api_is_there_and_importing_it_loads_nothing() -> None:
    assert all(callable(getattr(reprobox.runtime, name)) for name in reprobox.runtime.__all__)
    assert set(reprobox.runtime.__all__) <= set(dir(reprobox.runtime))
    code = "import sys, reprobox.runtime; print([n for n in sys.modules if n.startswith('reprobox.runtime.')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    with pytest.raises(AttributeError, match="no attribute 'set_seed'"):
        _ = reprobox.runtime.set_seed


@pytest.mark.parametrize("seed", [-1, 2**32, 2**40])
def test_a_seed_out_of_range_is_refused_with_the_range(seed: int) -> None:
    with pytest.raises(ValueError, match=f"from 0 to 4294967295, found {seed}"):
        set_random_seed(seed)


@pytest.mark.parametrize("seed", ["42", 4.2, None, True])
def test_a_seed_that_is_no_whole_number_is_refused(seed: Any) -> None:
    with pytest.raises(TypeError, match="whole number from 0 to 4294967295"):
        set_random_seed(seed)


@pytest.mark.parametrize("seed", [0, 42, 2**32 - 1])
def test_random_follows_the_seed(seed: int) -> None:
    set_random_seed(seed)
    assert random.random() == random.Random(seed).random()


def test_what_is_imported_later_is_seeded_then(tmp_path: Path) -> None:
    package = tmp_path / "numpy"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "random.py").write_text("def seed(value):\n    print('seeded', value)\n")
    code = """
from reprobox.runtime import set_random_seed
set_random_seed(1)
set_random_seed(7)
import numpy.random
set_random_seed(8)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "seeded 7\nseeded 8\n"


def test_verification_names_the_first_value_that_differs() -> None:
    values = iter([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, math.nextafter(2.0, 3.0), 4.0]])
    found = verify_reproducibility(lambda: {"loss": next(values)}, seed=1, runs=3)
    assert (found.identical, found.runs, found.run, found.index) == (False, 3, 2, ("loss", 1))
    assert str(found) == (
        "not reproducible: run 2 differs from run 0 at result['loss'][1]: 2.0000000000000004 (0x1.0000000000001p+1), "
        "expected 2.0 (0x1.0000000000000p+1)"
    )


def test_verification_seeds_before_every_run() -> None:
    assert verify_reproducibility(lambda: [random.random() for _ in range(3)], runs=4) == Verification(True, 4)


@pytest.mark.parametrize(
    ("one", "two", "index"),
    [
        (0.0, -0.0, ()),
        (1, 1.0, ()),
        (1, True, ()),
        ([1, 2], [1, 2, 3], (2,)),
        ([1, 2, 3], [1, 2], (2,)),
        ([], [[]], (0,)),
        ({"a": 1}, {"b": 1}, ()),
        ({"a": [1, {"b": None}]}, {"a": [1, {"b": "x"}]}, ("a", 1, "b")),
        (struct.unpack(">d", bytes.fromhex("7ff8000000000001"))[0], math.nan, ()),
    ],
)
def test_verification_tells_all_bits_types_and_shapes_apart(
    one: object, two: object, index: tuple[object, ...]
) -> None:
    values = iter([one, two])
    found = verify_reproducibility(lambda: next(values), runs=2)
    assert (found.identical, found.index) == (False, index)
    assert found.expected != found.found


def test_equal_values_are_equal_whatever_their_order_in_a_dict_and_nan_equals_itself() -> None:
    values = iter([{"a": math.nan, "b": (1, "x", None, b"y", 2j)}, {"b": [1, "x", None, b"y", 2j], "a": math.nan}])
    assert verify_reproducibility(lambda: next(values), runs=2)


def test_verification_refuses_what_it_cannot_compare() -> None:
    with pytest.raises(TypeError, match="a object cannot be compared to the bit"):
        verify_reproducibility(object)
    with pytest.raises(ValueError, match="at least 2 runs"):
        verify_reproducibility(lambda: 1, runs=1)


configs = st.builds(
    TrainingConfig,
    seed=st.integers(0, 2**32 - 1),
    deterministic=st.booleans(),
    notes=st.text(st.characters(exclude_categories=["Cs"])),
)


@given(configs)
def test_a_configuration_survives_json_and_yaml_and_yaml_libraries_agree(config: TrainingConfig) -> None:
    assert TrainingConfig.from_json(config.to_json()) == config
    assert TrainingConfig.from_yaml(config.to_yaml()) == config
    assert yaml.safe_load(config.to_yaml()) == config.to_dict()


@pytest.mark.parametrize(
    "text",
    [
        "seed: 7\ndeterministic: true\nnotes: for table 2\n",
        "---\n# a comment\nseed: 7   # lucky\n\ndeterministic: True\nnotes: 'for table 2'\n",
        'notes: "for table 2"  # quoted\nseed:  7\ndeterministic:  true',
    ],
)
def test_a_person_may_write_the_yaml(text: str) -> None:
    assert TrainingConfig.from_yaml(text) == TrainingConfig(7, True, "for table 2")
    assert yaml.safe_load(text) == {"seed": 7, "deterministic": True, "notes": "for table 2"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("seed: 1\nnotes: |\n  long\n", "line 2 is not"),
        ("seed: &a 1\n", "line 1 is not"),
        ("training: {seed: 1}\n", "line 1 is not"),
        ("- seed\n", "line 1 is not"),
        ("seed: 1\nseed: 2\n", "stands there twice"),
        ("sead: 1\n", "unknown key 'sead', expected one of: seed, deterministic, notes"),
        ("seed: one\n", "whole number"),
        ("seed: -1\n", "found -1"),
        ("deterministic: 1\n", "true or false"),
        ('notes: "open\n', "line 1 is not"),
        ("notes: 'a' b\n", "line 1 is not"),
    ],
)
def test_yaml_beyond_that_is_refused_with_its_line(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=problem) as caught:
        TrainingConfig.load(path)
    assert str(path) in str(caught.value)


def test_a_configuration_is_saved_by_its_ending_and_applied_when_loaded(tmp_path: Path) -> None:
    config = TrainingConfig(seed=9, notes="déjà vu: #1")
    for name in ("c.json", "c.yaml", "c.yml"):
        config.save(tmp_path / name)
        assert TrainingConfig.load(tmp_path / name) == config
        assert random.random() == random.Random(9).random()
    before = random.getstate()
    assert TrainingConfig.load(tmp_path / "c.json", apply=False) == config
    assert random.getstate() == before
    assert json.loads((tmp_path / "c.json").read_text())["seed"] == 9
    with pytest.raises(ValueError, match="expected a name that ends in"):
        config.save(tmp_path / "c.toml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.json", "c.yaml", "c.yml"]


class Record:
    """Stands for the recorder of a run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lines: list[tuple[str, str, str, int | None]] = []
        monkeypatch.setattr(current, "run", current.Run(42, True, self, None, None))  # type: ignore[arg-type]

    def metric(self, name: str, dtype: str, bits: str, step: int | None = None) -> None:
        self.lines.append((name, dtype, bits, step))


def test_metrics_keep_their_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record(monkeypatch)
    log(accuracy=0.1, steps=3, done=True, **{"val/loss": math.inf})
    assert record.lines == [
        ("accuracy", "float64", "3fb999999999999a", None),
        ("steps", "float64", "4008000000000000", None),
        ("done", "float64", "3ff0000000000000", None),
        ("val/loss", "float64", "7ff0000000000000", None),
    ]


@pytest.mark.parametrize("value", [2**53 + 1, 10**400, "0.5", None, [1.0]])
def test_what_is_no_number_or_would_be_rounded_is_refused(monkeypatch: pytest.MonkeyPatch, value: object) -> None:
    record = Record(monkeypatch)
    with pytest.raises((TypeError, ValueError), match="metric x: "):
        log(good=1.0, x=value)
    with pytest.raises(ValueError, match="a metric's name"):
        log(**{"a\tb": 1.0})
    assert record.lines == []


def test_logging_outside_a_run_warns_once() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        log(accuracy=0.5)
        log(accuracy=0.6)
    assert [str(each.message) for each in caught] == [
        "reprobox.runtime.log: this is no reprobox run, so no metric is recorded"
    ]
    assert caught[0].filename == __file__
