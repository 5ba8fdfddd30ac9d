"""Where a replay trains, and what it says before about an image or a machine that is not the recorded one."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from reprobox.engines.interface import Engine
from reprobox.errors import ConsentError, EngineUnavailableError
from reprobox.fingerprint import Gpu
from reprobox.manifest.model import Manifest, UncoveredProcess
from reprobox.manifest.store import read_manifest, write_manifest
from reprobox.progress import Observer
from reprobox.trajectory.model import Outcome
from reprobox.workflow.environment import Environment
from reprobox.workflow.judge import Judged, judge, run_differences
from reprobox.workflow.replay import ReplayRequest, _environment_differences, replay

OTHER = "sha256:" + "e" * 64


class Docker:
    name = "docker"


def said(packages: tuple[str, ...], **spec: Any) -> str:
    """Return the effect that is told where the base here has `packages` instead of the recorded ones."""
    manifest: Manifest = read_manifest(Path(__file__).parent.parent / "assets" / "manifest-1.yaml")
    assert manifest.image is not None
    base = replace(manifest.image.base, kind="debian", packages=("libc6=2.36-9", "python3=3.11.2"))
    manifest = replace(manifest, image=replace(manifest.image, base=base), spec=replace(manifest.spec, **spec))
    assert manifest.image is not None
    here = replace(manifest.image, config_digest=OTHER, base=replace(base, digest=OTHER, packages=packages))
    environment = Environment(handle=OTHER, lock=manifest.lock, image=here)
    engine, kind = cast(Engine, Docker()), replace(manifest.engine, kind="docker")
    (found,) = _environment_differences(replace(manifest, engine=kind), environment, engine, manifest.machine)
    assert (found.what, found.recorded, found.here) == ("base image", base.digest, OTHER)
    return found.effect


@pytest.mark.parametrize(("gpus", "told"), [("none", []), ("all", ["gpu", "driver"]), ("0", ["gpu", "driver"])])
def test_a_gpu_of_the_machine_is_told_only_where_the_program_is_given_it(gpus: str, told: list[str]) -> None:
    manifest: Manifest = read_manifest(Path(__file__).parent.parent / "assets" / "manifest-1.yaml")
    resources = replace(manifest.spec.resources, gpus=gpus)
    kind = replace(manifest.engine, kind="docker")
    manifest = replace(manifest, spec=replace(manifest.spec, resources=resources), engine=kind)
    gpu = Gpu(name="NVIDIA L4", compute_capability="8.9", memory_mib=1, uuid_hash=OTHER)
    here = replace(manifest.machine, gpus=(gpu,), driver="610.1")
    environment = Environment(handle=OTHER, lock=manifest.lock, image=manifest.image)
    found = _environment_differences(manifest, environment, cast(Engine, Docker()), here)
    assert [each.what for each in found] == told
    other = [each["what"] for each in run_differences(manifest, replace(manifest, machine=here))]
    assert other == (["gpus"] if told else [])


@pytest.fixture
def spec() -> Any:
    return read_manifest(Path(__file__).parent.parent / "assets" / "manifest-1.yaml").spec


def test_an_archive_that_moved_on_is_named_with_what_changed_and_what_prevents_it(spec: Any) -> None:
    effect = "Debian's archive has moved on, which image.snapshot prevents: libc6 2.36-9 -> 2.36-10"
    assert said(("libc6=2.36-10", "python3=3.11.2")) == effect
    pinned = replace(spec.image, snapshot="2026-11-01T00:00:00Z")
    assert said(("libc6=2.36-10", "python3=3.11.2"), image=pinned).startswith("Debian packages differ: libc6")


def test_packages_of_a_base_that_holds_the_environment_are_told_apart_from_debians(spec: Any) -> None:
    own = replace(spec.environment, installed=True)
    assert said(("python3=3.11.2",), environment=own) == "Python packages in it differ: libc6 2.36-9 gone"
    same = said(("libc6=2.36-9", "python3=3.11.2"), environment=own)
    assert same == "another image, with the same versions of its Python packages"


def test_a_long_list_is_cut() -> None:
    many = tuple(f"p{number}=1" for number in range(9))
    assert said(many).endswith("p3 1 new, p4 1 new, ...")


@pytest.mark.parametrize(("which", "run"), [(0, "the recorded run"), (1, "this run")])
def test_a_run_with_a_process_that_nobody_recorded_is_incomparable_with_any(which: int, run: str) -> None:
    manifest = read_manifest(Path(__file__).parent.parent / "assets" / "manifest-1.yaml")
    unseen = (
        UncoveredProcess(command="python -S stage.py", reason="python -S"),
        UncoveredProcess(command="./trainer", reason="another program: trainer with torch"),
    )
    changed = replace(manifest, processes=replace(manifest.processes, uncovered=unseen))
    pair = [manifest, manifest]
    pair[which] = changed
    verdict = judge(*map(Judged.of, pair))
    assert (verdict.outcome, verdict.steps_compared) == (Outcome.INCOMPARABLE, 0)
    assert (
        verdict.reason == f"in {run} this was neither seeded nor recorded: python -S stage.py (python -S), and 1 more"
    )
    assert judge(Judged.of(manifest), Judged.of(manifest)).outcome is Outcome.EXACT


@pytest.fixture(params=["docker", "local"])
def recorded(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A manifest that was recorded in a container, or without one. No Docker engine answers (see conftest)."""
    manifest: Manifest = read_manifest(Path(__file__).parent.parent / "assets" / "manifest-1.yaml")
    image = None if request.param == "local" else manifest.image
    manifest = replace(manifest, image=image, engine=replace(manifest.engine, kind=request.param))
    (tmp_path / "given").mkdir()
    write_manifest(manifest, tmp_path / "given" / "manifest.yaml")
    return tmp_path / "given" / "manifest.yaml"


def test_a_program_leaves_the_container_for_no_manifest_but_for_a_person(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was made or run")

    for name in ("unpack", "_code", "rebuild", "execute", "create_run"):
        monkeypatch.setattr(f"reprobox.workflow.replay.{name}", refuse)
    request = ReplayRequest(manifest=recorded, parent=tmp_path)
    with pytest.raises(ConsentError, match="no Docker engine answers at unix://") as caught:
        replay(request, cache=tmp_path / "cache", observer=Observer())
    error = caught.value
    assert (error.exit_code, error.needs) == (2, ("engine:local",))
    assert "with your network and your files" in "\n".join(error.details)
    assert error.details[-1] == "  python train.py --epochs 2"
    with pytest.raises(EngineUnavailableError):
        replay(replace(request, engine="docker"), cache=tmp_path / "cache", observer=Observer())
    with pytest.raises(AssertionError, match="made or run"):
        replay(replace(request, engine="local"), cache=tmp_path / "cache", observer=Observer())
    assert [path.name for path in tmp_path.iterdir()] == ["given"]


@pytest.mark.parametrize(
    ("given", "suggested"),
    [
        (["manifest.yaml", "--rtol", "1e-6"], "replay --json manifest.yaml --rtol 1e-6 --engine local"),
        (["--fail-fast", "--", "manifest.yaml"], "replay --json --fail-fast --engine local -- manifest.yaml"),
    ],
)
def test_the_command_that_allows_it_is_told_whole(recorded: Path, given: list[str], suggested: str) -> None:
    command = [sys.executable, "-m", "reprobox", "replay", "--json", *given]
    done = subprocess.run(command, cwd=recorded.parent, capture_output=True, text=True, check=False)
    told = json.loads(done.stdout)
    assert (done.returncode, told["exit_code"], told["needs"]) == (2, 2, ["engine:local"])
    assert told["hint"] == f"if you trust the manifest:  reprobox {suggested}"
    assert told["hint"] in done.stderr
    assert [path.name for path in recorded.parent.iterdir()] == ["manifest.yaml"]
