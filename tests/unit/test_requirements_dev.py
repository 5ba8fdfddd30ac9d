"""What tests and lint run with: `requirements-dev.lock` fits pyproject.toml, and holds hashes but no address."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements-dev.lock").read_text()
PINS = {
    canonicalize_name(pin.name): next(iter(pin.specifier)).version
    for pin in (Requirement(line.removesuffix(" \\")) for line in LOCK.splitlines() if re.match(r"\w", line))
}


def test_every_requirement_of_the_project_its_developers_and_its_build_is_locked_to_a_version_that_fits() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["dev"],
        *project["build-system"]["requires"],
    ]
    for requirement in map(Requirement, wanted):
        pinned = PINS.get(canonicalize_name(requirement.name))
        assert pinned is not None, f"{requirement.name} is not locked: run `make relock`"
        assert requirement.specifier.contains(pinned), f"{requirement} is locked to {pinned}: run `make relock`"


def test_every_locked_release_has_hashes_and_no_place_is_named() -> None:
    entries = re.split(r"\n(?=\w)", LOCK.partition("make relock\n")[2])
    assert len(entries) == len(PINS)
    for entry in entries:
        first, *hashes = entry.rstrip().replace("\\\n", "\n").splitlines()
        assert re.fullmatch(r"[a-z0-9-]+==[^ ]+ (?:; .+ )?", first), first
        assert hashes and all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64} ?", line) for line in hashes), entry
    assert "/" not in LOCK
