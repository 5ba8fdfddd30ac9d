"""Which platform a lock is for, and which wheels fit it."""

from __future__ import annotations

import pytest
from packaging.tags import Tag

from reprobox.errors import LockError
from reprobox.lock.export import export_requirements
from reprobox.lock.model import Lock, LockedPackage
from reprobox.lock.platforms import compatible_wheel_tags, marker_environment, platform_for, platform_tags


@pytest.mark.parametrize(
    ("architecture", "glibc", "expected"),
    [
        ("x86_64", (2, 36), "x86_64-manylinux_2_36"),
        ("amd64", (2, 41), "x86_64-manylinux_2_40"),
        ("aarch64", (2, 30), "aarch64-manylinux_2_28"),
        ("arm64", (2, 27), "aarch64-manylinux_2_17"),
        ("x86_64", (2, 17), "x86_64-manylinux_2_17"),
    ],
)
def test_the_platform_is_the_highest_that_uv_knows_and_the_base_can_load(
    architecture: str, glibc: tuple[int, int], expected: str
) -> None:
    assert platform_for(architecture, glibc) == expected


def test_an_old_c_library_and_an_unknown_architecture_are_refused() -> None:
    with pytest.raises(LockError, match=r"too old for wheels: glibc 2\.12"):
        platform_for("x86_64", (2, 12))
    with pytest.raises(LockError, match="architecture riscv64"):
        platform_for("riscv64", (2, 36))


def test_platform_tags_run_from_the_newest_glibc_to_the_oldest_with_older_spellings() -> None:
    tags = platform_tags("x86_64-manylinux_2_28")
    assert tags[0] == "manylinux_2_28_x86_64"
    assert tags.index("manylinux_2_17_x86_64") + 1 == tags.index("manylinux2014_x86_64")
    assert tags[-2:] == ["manylinux1_x86_64", "linux_x86_64"]
    assert platform_tags("aarch64-manylinux_2_31")[-2:] == ["manylinux2014_aarch64", "linux_aarch64"]


def test_wheels_for_the_platform_fit_and_newer_or_foreign_ones_do_not() -> None:
    tags = set(compatible_wheel_tags("3.11", "x86_64-manylinux_2_31"))
    assert Tag("cp311", "cp311", "manylinux_2_28_x86_64") in tags
    assert Tag("cp38", "abi3", "manylinux2014_x86_64") in tags
    assert Tag("py3", "none", "any") in tags
    assert Tag("cp311", "cp311", "manylinux_2_34_x86_64") not in tags
    assert Tag("cp312", "cp312", "manylinux_2_28_x86_64") not in tags
    assert Tag("cp311", "cp311", "musllinux_1_2_x86_64") not in tags


def test_markers_are_those_of_the_target_and_not_of_this_machine() -> None:
    environment = marker_environment("3.12", "aarch64-manylinux_2_36")
    assert environment["python_version"] == "3.12"
    assert environment["python_full_version"] == "3.12.0"
    assert environment["platform_machine"] == "aarch64"


@pytest.mark.parametrize(("python", "platform"), [("2.7", "x86_64-manylinux_2_36"), ("3.11", "win_amd64")])
def test_a_python_or_platform_of_another_kind_is_refused(python: str, platform: str) -> None:
    with pytest.raises(LockError, match="that a lock can be for"):
        compatible_wheel_tags(python, platform)


def test_an_exported_lock_is_requirements_with_hashes() -> None:
    package = LockedPackage(name="six", version="1.17.0", file="six-1.17.0-py2.py3-none-any.whl", sha256="4" * 64)
    lock = Lock(python="3.11", platform="x86_64-manylinux_2_36", packages=(package,))
    assert export_requirements(lock) == f"six==1.17.0 \\\n    --hash=sha256:{'4' * 64}\n"
