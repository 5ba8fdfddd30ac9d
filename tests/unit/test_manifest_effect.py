"""What is said of seed and mode is what took effect."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reprobox.manifest.effect import mode_effect, seed_effect
from reprobox.manifest.model import Manifest, ProcessesRecord, UncoveredProcess
from reprobox.manifest.store import read_manifest
from reprobox.runtime.protocol import IN_A_CHILD

TORCH = {"what": "torch.random.manual_seed(7)", "where": "train.py:5", "count": 1}
AGAIN = {"what": "torch.random.manual_seed(8)", "where": "train.py:9", "count": 1}
NUMPY = {"what": "numpy.random.seed(3)", "where": "train.py:6", "count": 2}
API = {"what": "reprobox.runtime.set_random_seed(7)", "where": "train.py:2", "count": 1}
CHILD = {"what": f"torch.random.manual_seed(5){IN_A_CHILD}", "where": "train.py:4", "count": 1}
RANDOM = {"what": "random.seed(1)", "where": "train.py:7", "count": 1}


@pytest.fixture
def manifest() -> Manifest:
    return read_manifest(Path(__file__).parent.parent / "assets" / "manifest-1.yaml")


def changed(manifest: Manifest, *, torch: str | None, numpy: str | None, **determinism: Any) -> Manifest:
    software = replace(manifest.software, torch=torch, numpy=numpy)
    return replace(manifest, software=software, determinism={**manifest.determinism, **determinism})


@pytest.mark.parametrize(
    ("torch", "numpy", "own", "text"),
    [
        ("2.13.0", "2.4.0", [], "42 decides about everything (weights, order, workers)"),
        (None, "2.4.0", [], "42 decides about random and NumPy"),
        (None, None, [], "42 decides about random"),
        (
            "2.13.0",
            "2.4.0",
            [TORCH, AGAIN],
            "42 decides about random and NumPy; the program seeds torch itself from there on: "
            "torch.random.manual_seed(7) at train.py:5",
        ),
        (
            "2.13.0",
            "2.4.0",
            [NUMPY, RANDOM, TORCH],
            "42 decides about nothing but the order of sets; the program seeds NumPy, random and torch itself from "
            "there on: numpy.random.seed(3) at train.py:6, random.seed(1) at train.py:7, torch.random.manual_seed(7) "
            "at train.py:5",
        ),
        (
            "2.13.0",
            None,
            [API],
            "42 decides about nothing but the order of sets; the program seeds random and torch itself from there on: "
            "reprobox.runtime.set_random_seed(7) at train.py:2",
        ),
        (
            "2.13.0",
            None,
            [CHILD],
            "42 decides about everything (weights, order, workers); child processes seed torch themselves: "
            "torch.random.manual_seed(5) at train.py:4",
        ),
        (None, None, "damaged", "42 decides about random"),
    ],
)
def test_the_seed_decides_about_what_the_program_does_not_seed_itself(
    manifest: Manifest, torch: str | None, numpy: str | None, own: Any, text: str
) -> None:
    assert seed_effect(changed(manifest, torch=torch, numpy=numpy, own_seeds=own)) == text


def test_generators_without_a_seed_have_theirs_from_the_run(manifest: Manifest) -> None:
    places = ["train.py:1", "sympy/core/random.py:29", "sympy/core/symbol.py:487"]
    derived = [{"what": "random.Random()", "where": place, "count": 1} for place in places]
    found = changed(manifest, torch=None, numpy=None, own_seeds=[RANDOM], derived_seeds=derived)
    assert seed_effect(found).startswith(
        "42 decides about generators made without a seed (train.py, sympy); the program seeds random itself"
    )


def test_a_seed_that_reached_nothing_or_not_everything_is_said_to_have(manifest: Manifest) -> None:
    none = ProcessesRecord(covered=0, watched=True, uncovered=(), programs=())
    assert seed_effect(replace(manifest, processes=none)) == (
        "42 decides about nothing: the runtime started in no process"
    )
    unseen = (UncoveredProcess(command="python -S x.py", reason="python -S"),)
    some = replace(manifest.processes, uncovered=unseen)
    assert seed_effect(replace(manifest, processes=some)).endswith("; not about what ran without the runtime")


@pytest.mark.parametrize(
    ("asked", "flag", "warn_only", "text"),
    [
        (True, True, False, "deterministic"),
        (False, False, False, "fast mode"),
        (True, False, False, "not deterministic: the program switched it off"),
        (False, True, False, "deterministic: the program switched it on"),
        (True, True, True, "deterministic where torch can be, a warning elsewhere: the program chose so"),
        (True, None, None, "none: torch was not loaded, or did not say"),
    ],
)
def test_the_mode_is_read_off_torchs_switches(
    manifest: Manifest, asked: bool, flag: bool | None, warn_only: bool | None, text: str
) -> None:
    flags = {**manifest.determinism, "use_deterministic_algorithms": flag, "warn_only": warn_only}
    spec = replace(manifest.spec, deterministic=asked)
    assert mode_effect(replace(manifest, spec=spec, determinism=flags)) == text


def test_seeding_by_batch_is_part_of_the_mode(manifest: Manifest) -> None:
    spec = replace(manifest.spec, loader_seeding="batch")
    assert mode_effect(replace(manifest, spec=spec)) == "deterministic, each batch seeded"
