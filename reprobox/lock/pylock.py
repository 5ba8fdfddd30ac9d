"""pylock.toml (PEP 751) read: the wheels for one Python and platform, and where each of them is offered."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from reprobox.errors import LockError
from reprobox.lock.addresses import without_credentials
from reprobox.lock.model import ORIGINS, BuiltFrom, Lock, LockedPackage, Source, SourceArchive, SourceOnlyError, Sources
from reprobox.lock.platforms import compatible_wheel_tags, marker_environment

if TYPE_CHECKING:
    from packaging.pylock import Package, PackageSdist, PackageWheel, Pylock


NOTHING_BUILT: Mapping[str, LockedPackage] = MappingProxyType({})


def select_wheels(
    document: Mapping[str, Any],
    *,
    python: str,
    platform: str,
    shown: str,
    folder: Path,
    promised: Mapping[str, frozenset[str]],
    built: Mapping[str, LockedPackage] = NOTHING_BUILT,
) -> tuple[Lock, Sources]:
    """Choose one wheel for every package of a pylock document that the environment needs.

    `shown` names the document in errors, relative paths in it start at `folder`, and for a project in `promised` only
    files with one of those sha256 digests are taken. `built` holds wheels that were built of source archives, by the
    sha256 of these. Raises SourceOnlyError when there is only a source archive of a package, and it was not built yet;
    LockError when the document is not a PEP 751 lock, when it holds anything else, or when no wheel fits.
    """
    from packaging.pylock import PackageSdist, PackageWheel, PylockSelectError  # not needed by `reprobox --help`

    pylock = _validated(_with_promised_only(document, promised, shown), shown)
    packages: list[LockedPackage] = []
    sources: Sources = {}
    unbuilt: list[SourceArchive] = []
    made = {package.sha256: package for package in built.values()}
    try:
        selected = list(
            pylock.select(
                environment=marker_environment(python, platform), tags=compatible_wheel_tags(python, platform)
            )
        )
    except PylockSelectError as error:
        raise LockError(
            f"{shown} does not fit Python {python} on {platform}",
            details=(str(error),),
            hint="Make the lock for this Python and platform, or choose another base image.",
        ) from error
    for package, distribution in selected:
        if isinstance(distribution, PackageSdist):
            archive = _archive(package, distribution, shown, folder)
            if archive.sha256 in built:
                packages.append(built[archive.sha256])
            else:
                unbuilt.append(archive)
            continue
        if not isinstance(distribution, PackageWheel):
            raise LockError(
                f"{shown} holds no wheel of {package.name} for Python {python} on {platform}",
                details=("found a folder, a version-control address or a direct address",),
                hint="Name a version of it that an index offers as a wheel.",
            )
        locked = _locked(package, distribution, shown)
        packages.append(made.get(locked.sha256, locked))
        if locked.sha256 not in made:
            sources[locked.sha256] = _source(distribution, folder)
    if unbuilt:
        raise SourceOnlyError(unbuilt, python=python, platform=platform)
    return Lock(python=python, platform=platform, packages=tuple(sorted(packages, key=lambda each: each.name))), sources


def offered_wheels(document: Mapping[str, Any], *, shown: str, folder: Path) -> Sources:
    """Return every wheel that a pylock document lists, whatever it is for."""
    return {
        wheel.hashes["sha256"]: _source(wheel, folder)
        for package in _validated(document, shown).packages
        for wheel in package.wheels or ()
        if "sha256" in wheel.hashes
    }


def _validated(document: Mapping[str, Any], shown: str) -> Pylock:
    from packaging.pylock import Pylock, PylockUnsupportedVersionError, PylockValidationError

    try:
        return Pylock.from_dict(document)
    except PylockUnsupportedVersionError as error:
        raise LockError(
            f"{shown} is a lock of a version that is not known here", details=(str(error), "expected lock-version 1.0")
        ) from error
    except PylockValidationError as error:
        raise LockError(
            f"{shown} is not a lock as PEP 751 describes it",
            details=(str(error),),
            hint="Write it anew with the tool that made it.",
        ) from error


def _with_promised_only(
    document: Mapping[str, Any], promised: Mapping[str, frozenset[str]], shown: str
) -> Mapping[str, Any]:
    if not promised:
        return document
    packages = []
    for package in document.get("packages", []):
        allowed = promised.get(package.get("name", ""))
        if allowed is not None:
            kept = [wheel for wheel in package.get("wheels", []) if wheel.get("hashes", {}).get("sha256") in allowed]
            archive = package.get("sdist", {}).get("hashes", {}).get("sha256") in allowed
            if not kept and not archive:
                raise UnpromisedError(package.get("name", ""), package.get("version", ""), shown)
            left = package if archive else {key: value for key, value in package.items() if key != "sdist"}
            packages.append({**left, "wheels": kept})
        else:
            packages.append(package)
    return {**document, "packages": packages}


class UnpromisedError(LockError):
    """No wheel that is offered has one of the hashes that the requirements file gives for the project."""

    def __init__(self, name: str, version: str, shown: str) -> None:
        """Say which project it is."""
        super().__init__(
            f"no wheel of {name} {version} that your indexes offer has a hash that {shown} gives for it",
            details=("expected one of its --hash values (sha256)",),
            hint="If the file was made elsewhere, its index offered other files: make the hashes anew, "
            "or add that index.",
        )


def _locked(package: Package, wheel: PackageWheel, shown: str) -> LockedPackage:
    from packaging.utils import parse_wheel_filename

    sha256 = wheel.hashes.get("sha256", "").lower()
    if not sha256:
        raise LockError(
            f"{shown} gives no sha256 for {wheel.filename}",
            details=(f"found: {', '.join(sorted(wheel.hashes))}",),
            hint="Make the lock anew with sha256 hashes.",
        )
    # The file name is what will be installed, so its version is the one to record.
    return LockedPackage(
        name=package.name,
        version=str(parse_wheel_filename(wheel.filename)[1]),
        file=wheel.filename,
        sha256=sha256,
        origin=_origin(package),
        built_from=_built_from(package),
    )


def _archive(package: Package, distribution: PackageSdist, shown: str, folder: Path) -> SourceArchive:
    sha256 = distribution.hashes.get("sha256", "").lower()
    file = distribution.filename
    if not sha256 or package.version is None:
        raise LockError(
            f"{shown} gives no {'version' if sha256 else 'sha256'} for {file}",
            hint="Make the lock anew with versions and sha256 hashes.",
        )
    return SourceArchive(
        name=package.name,
        version=str(package.version),
        file=file,
        sha256=sha256,
        source=_source(distribution, folder),
    )


def _own(package: Package) -> Mapping[str, Any]:
    """Return what reprobox keeps of a package in a lock of its own."""
    own = (package.tool or {}).get("reprobox")
    return own if isinstance(own, Mapping) else {}


def _built_from(package: Package) -> BuiltFrom | None:
    """Return what reprobox's own lock says of a wheel that was built."""
    table = _own(package).get("built_from")
    if not isinstance(table, Mapping) or not isinstance(table.get("requires"), (list, tuple)):
        return None
    return BuiltFrom(
        file=str(table.get("file")),
        sha256=str(table.get("sha256")),
        requires=tuple(str(line) for line in table["requires"]),
    )


def _origin(package: Package) -> str | None:
    """Return the mark that reprobox's own lock gives a packed wheel."""
    origin = _own(package).get("origin")
    return origin if origin in ORIGINS else None


def _source(file: PackageWheel | PackageSdist, folder: Path) -> Source:
    url = without_credentials(file.url) if file.url else (folder / str(file.path)).absolute().as_uri()
    return Source(url=url, size=file.size)
