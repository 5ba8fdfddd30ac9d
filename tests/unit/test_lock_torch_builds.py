"""torch and its companions: a lock with two builds of them is warned of, one that loads is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from reprobox.engines import open_engine
from reprobox.lock.model import Lock, LockedPackage
from reprobox.lock.torch_builds import mixed_builds
from reprobox.spec import load_spec
from reprobox.workflow.environment import prepare
from reprobox.workflow.lock import make_lock
from tests.unit.lock_support import PLATFORM, PYTHON, Listener, become_offline_user, make_wheel


def lock_of(*pinned: str, platform: str = PLATFORM, origin: str | None = None) -> Lock:
    return Lock(
        python=PYTHON,
        platform=platform,
        packages=tuple(
            LockedPackage(
                name=name, version=version, file=f"{name}-{version}.whl", sha256="0" * 64, origin=origin if at else None
            )
            for at, (name, _, version) in enumerate(each.partition("==") for each in pinned)
        ),
    )


def test_a_cuda_torchvision_beside_a_cpu_torch_is_named_with_the_way_out() -> None:
    assert mixed_builds(lock_of("torch==2.13.0+cpu", "torchaudio==2.11.0", "torchvision==0.28.0")) == (
        "torchvision 0.28.0 (CUDA, as on PyPI) and torchaudio 2.11.0 (CUDA, as on PyPI) beside torch 2.13.0+cpu (cpu): "
        "packages of different builds rarely load together; lock them from one index, for instance by "
        "environment.torch_backend: cpu"
    )


@pytest.mark.parametrize(
    "pinned",
    [
        ("torch==2.13.0", "torchvision==0.28.0+cpu"),
        ("torch==2.13.0+cu128", "torchvision==0.28.0+cu126"),
        ("torch==2.13.0+cu128", "torchvision==0.28.0"),
    ],
)
def test_any_two_builds_are_told_apart(pinned: tuple[str, ...]) -> None:
    assert "different builds" in str(mixed_builds(lock_of(*pinned)))


@pytest.mark.parametrize(
    "pinned",
    [
        ("torch==2.13.0", "torchvision==0.28.0", "torchaudio==2.11.0"),
        ("torch==2.13.0+cpu", "torchvision==0.28.0+cpu", "numpy==2.4.0"),
        ("torch==2.13.0+cpu",),
        ("torchvision==0.28.0",),
        ("torch==2.13.0a0+git1234567", "torchvision==0.28.0"),
        ("torch==2.13.0+cpu", "torchvision==0.28.0+local1"),
    ],
)
def test_one_build_and_builds_that_cannot_be_told_are_left_alone(pinned: tuple[str, ...]) -> None:
    assert mixed_builds(lock_of(*pinned)) is None


def test_where_pypi_offers_cpu_builds_or_a_wheel_is_the_users_own_nothing_is_guessed() -> None:
    pinned = ("torch==2.13.0+cpu", "torchvision==0.28.0")
    assert mixed_builds(lock_of(*pinned, platform="aarch64-manylinux_2_36")) is None
    assert mixed_builds(lock_of(*pinned, origin="folder")) is None


def test_it_is_told_once_when_a_lock_is_made_and_once_when_a_run_takes_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wheels = become_offline_user(monkeypatch, tmp_path)
    make_wheel(wheels, "torch", "2.13.0+cpu")
    make_wheel(wheels, "torchvision", "0.28.0", requires=("torch==2.13.0",))
    project = tmp_path / "project"
    project.mkdir()
    (project / "requirements.txt").write_text("torchvision\n")
    spec = load_spec(project, file=None, overrides={"command": ["python"]})
    engine = open_engine("local")
    for made in (False, True, True):
        run, lock = Listener(), Listener()
        prepare(engine, spec, project, cache=tmp_path / "cache", observer=run)
        assert ["different builds" in text for text in run.warnings] == [True]
        assert (project / "pylock.toml").exists() is made
        make_lock(spec, project, engine="local", upgrade=None, cache=tmp_path / "cache", observer=lock)
        assert ["different builds" in text for text in lock.warnings] == [True]
