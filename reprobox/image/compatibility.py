"""Whether a wheel is for the base's Python, C library and processor (platform compatibility tags, PEP 425, 600)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from reprobox.image.wheel import refused
from reprobox.lock.model import LockedPackage

# OCI's architecture names (Go's) and those that wheels use.
MACHINES = {"amd64": "x86_64", "arm64": "aarch64", "ppc64le": "ppc64le", "s390x": "s390x"}

# The manylinux names before PEP 600, by the glibc 2.x that each stands for.
_LEGACY = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}


def check_compatible(packages: Iterable[LockedPackage], python: str, glibc: tuple[int, int], architecture: str) -> None:
    """Check every wheel's file name against the base and against the lock. Raises ImageError at the first misfit."""
    # packaging costs tens of milliseconds to import, and an image that is known already needs none of it.
    from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
    from packaging.version import InvalidVersion, Version

    supported = _supported(python, glibc, architecture)
    for package in packages:
        try:
            name, version, _, tags = parse_wheel_filename(package.file)
            locked = Version(package.version)
        except (InvalidWheelFilename, InvalidVersion) as error:
            raise refused(package, f"not the name of a wheel: {error}") from error
        if name != canonicalize_name(package.name) or version != locked:
            raise refused(package, "its name is not the locked one", f"expected {package.name} {package.version}")
        if supported.isdisjoint(str(tag) for tag in tags):
            raise refused(
                package,
                "it is for another Python or platform",
                f"the base has CPython {python}, glibc {glibc[0]}.{glibc[1]}, {architecture}",
            )


@cache
def _supported(python: str, glibc: tuple[int, int], architecture: str) -> frozenset[str]:
    from packaging.tags import compatible_tags, cpython_tags

    version = tuple(int(part) for part in python.split("."))
    platforms = _platforms(glibc, MACHINES.get(architecture, architecture))
    tags = [*cpython_tags(version, platforms=platforms)]
    tags += compatible_tags(version, interpreter=f"cp{python.replace('.', '')}", platforms=platforms)
    return frozenset(str(tag) for tag in tags)


def _platforms(glibc: tuple[int, int], machine: str) -> list[str]:
    """Return the platform tags that a glibc satisfies, newest first. glibc has been 2.x since 1997."""
    names: list[str] = []
    for minor in range(glibc[1], 4, -1):
        names.append(f"manylinux_2_{minor}_{machine}")
        if minor in _LEGACY and (machine in ("x86_64", "i686") or minor == 17):
            names.append(f"{_LEGACY[minor]}_{machine}")
    return [*names, f"linux_{machine}"]
