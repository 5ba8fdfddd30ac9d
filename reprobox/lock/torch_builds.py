"""Whether torch and the packages that are compiled against it are of one build: those of two rarely load together."""

from __future__ import annotations

from reprobox.lock.model import Lock, LockedPackage, torch_build

_COMPANIONS = ("torchvision", "torchaudio")


def mixed_builds(lock: Lock) -> str | None:
    """Return a warning that names versions and remedy where a companion of torch is of another build, else None."""
    by_name = {package.name: package for package in lock.packages}
    torch = by_name.get("torch")
    build = _build(torch, lock.platform) if torch else None
    others = [by_name[name] for name in _COMPANIONS if name in by_name]
    builds = {other: found for other in others if (found := _build(other, lock.platform)) not in (None, build)}
    if torch is None or build is None or not builds:
        return None
    named = " and ".join(f"{other.name} {other.version} ({found})" for other, found in builds.items())
    wanted = torch_build(torch.version) or torch_build(next(iter(builds)).version)
    return (
        f"{named} beside torch {torch.version} ({build}): packages of different builds rarely load together; "
        f"lock them from one index, for instance by environment.torch_backend: {wanted}"
    )


def _build(package: LockedPackage, platform: str) -> str | None:
    """Return what a package was built for; None where its version does not tell."""
    if "+" in package.version or package.origin is not None:
        return torch_build(package.version)
    # On PyPI the wheels without a local version need CUDA on this processor. On others it depends on the release.
    return "CUDA, as on PyPI" if platform.startswith("x86_64") else None
