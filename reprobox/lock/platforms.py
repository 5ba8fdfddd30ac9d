"""Which platform a lock is for: its name in uv's words, the wheel tags that fit it, and its marker environment."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from reprobox.errors import LockError

if TYPE_CHECKING:
    from packaging.markers import Environment
    from packaging.tags import Tag

# glibc 2.x versions that uv has a platform name for (`uv pip compile --help`, --python-platform).
_UV_GLIBC_MINORS = (17, 28, *range(31, 41))
_ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}
# The oldest glibc that wheels of an architecture may name, and the older spellings of a tag. Source: PEP 600.
_OLDEST_GLIBC_MINOR = {"x86_64": 5, "aarch64": 17}
_LEGACY_TAGS = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
_PLATFORM = re.compile(r"(x86_64|aarch64)-manylinux_2_(\d+)")
_PYTHON = re.compile(r"3\.(\d+)(?:\.\d+)?")


def platform_for(architecture: str, glibc: tuple[int, int]) -> str:
    """Return uv's name of the platform, such as `x86_64-manylinux_2_36`.

    It is the highest that uv knows and that does not exceed `glibc` (major, minor), so that every wheel chosen loads.
    Raises LockError for an architecture or a C library for which there are no wheels.
    """
    machine = _ARCHITECTURES.get(architecture.lower())
    if machine is None:
        raise LockError(
            f"no lock can be made for the architecture {architecture}",
            details=("expected x86_64 or aarch64",),
            hint="Choose a base image for one of these architectures.",
        )
    fitting = [minor for minor in _UV_GLIBC_MINORS if (2, minor) <= glibc]
    if not fitting:
        raise LockError(
            f"the base's C library is too old for wheels: glibc {glibc[0]}.{glibc[1]}",
            details=("expected glibc 2.17 or later (manylinux2014)",),
            hint="Choose a newer base image.",
        )
    return f"{machine}-manylinux_2_{max(fitting)}"


def _parts(python: str, platform: str) -> tuple[tuple[int, int], str, int]:
    version, place = _PYTHON.fullmatch(python), _PLATFORM.fullmatch(platform)
    if version is None:
        raise LockError(
            f"not a Python version that a lock can be for: {python!r}", details=("expected a form like 3.11",)
        )
    if place is None:
        raise LockError(
            f"not a platform that a lock can be for: {platform!r}",
            details=("expected a form like x86_64-manylinux_2_36",),
        )
    return (3, int(version[1])), place[1], int(place[2])


def architecture_of(platform: str) -> str:
    """Return the machine of a platform as markers name it: `x86_64` or `aarch64`."""
    return _parts("3.11", platform)[1]


def platform_tags(platform: str) -> list[str]:
    """Return the wheel platform tags that fit, best first: `manylinux_2_36_x86_64` to the oldest, `linux_` last."""
    _, machine, newest = _parts("3.11", platform)
    tags = []
    for minor in range(newest, _OLDEST_GLIBC_MINOR[machine] - 1, -1):
        tags.append(f"manylinux_2_{minor}_{machine}")
        if minor in _LEGACY_TAGS:
            tags.append(f"{_LEGACY_TAGS[minor]}_{machine}")
    tags.append(f"linux_{machine}")
    return tags


def compatible_wheel_tags(python: str, platform: str) -> list[Tag]:
    """Return every tag of wheels that CPython `python` on `platform` can install, best first (PEP 425 order)."""
    from packaging.tags import compatible_tags, cpython_tags  # not needed by `reprobox --help`

    version, _, _ = _parts(python, platform)
    platforms = platform_tags(platform)
    interpreter = f"cp{version[0]}{version[1]}"
    return [
        *cpython_tags(python_version=version, platforms=platforms),
        *compatible_tags(python_version=version, interpreter=interpreter, platforms=platforms),
    ]


def marker_environment(python: str, platform: str) -> Environment:
    """Return what environment markers (PEP 508) evaluate to there; `3.11` without a patch is 3.11.0, as for uv."""
    version, machine, _ = _parts(python, platform)
    full = python if python.count(".") == 2 else f"{python}.0"
    return {
        "implementation_name": "cpython",
        "implementation_version": full,
        "os_name": "posix",
        "platform_machine": machine,
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": full,
        "platform_python_implementation": "CPython",
        "python_version": f"{version[0]}.{version[1]}",
        "sys_platform": "linux",
    }
