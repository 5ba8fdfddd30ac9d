"""Packages that are offered as source archives only are built into wheels: once, in a container without a network.

The container holds the run's own base and what the build needs, locked by hash like everything else. The wheel is
written anew from what the build gave, so that the same files are the same wheel; it then is part of the lock, marked as
built, and travels with what names it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from reprobox import inside
from reprobox.cache import locked, storage_errors
from reprobox.digests import sha256_of, sha256_of_file
from reprobox.engines.interface import Engine
from reprobox.errors import ImageError, LockError
from reprobox.image.assemble import assemble
from reprobox.image.bases import Base
from reprobox.image.interface import ImageStore
from reprobox.image.load import load
from reprobox.lock.choices import Choices
from reprobox.lock.download import fetch_archive, fetch_wheels, has_wheel, store_wheel
from reprobox.lock.locating import locate_archive
from reprobox.lock.model import BuiltFrom, Lock, LockedPackage, SourceArchive, SourceOnlyError
from reprobox.lock.platforms import compatible_wheel_tags, platform_for
from reprobox.lock.resolution import Renewal, resolve, resolve_build
from reprobox.lock.settings import content_named
from reprobox.lock.store import read_built, write_built
from reprobox.progress import Observer

# A change of how a wheel is built or written makes a new one.
_SCHEME = "1"
_FRONTEND = "build"
# As WHEEL has them (PEP 425); they become part of a file's name, which a manifest holds to so many letters.
_TAG = re.compile(r"[A-Za-z0-9_.]+-[A-Za-z0-9_.]+-[A-Za-z0-9_.]+")
_LONGEST_NAME = 250


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """Where wheels are built: in containers of `store` upon `base`. `requirements` is the file whose index options
    hold, None where there is only a manifest; nothing newer than `exclude_newer` is taken for a build.
    """

    base: Base
    store: ImageStore
    cache: Path
    observer: Observer
    requirements: Path | None = None
    exclude_newer: str | None = None

    @property
    def platform(self) -> str:
        """The platform of its wheels, in uv's words."""
        return platform_for(self.base.architecture, self.base.glibc)

    def built(self, archive: SourceArchive) -> LockedPackage:
        """Return the wheel of a source archive, which the cache holds then.

        Raises LockError when it cannot be fetched or built, ImageError or EngineError when no container can be made.
        """
        place = self.requirements.absolute().parent if self.requirements else Path.cwd()
        parts = [_SCHEME, archive.sha256, self.base.record.digest, self.base.python, self.platform]
        parts += [self.exclude_newer or "", content_named("UV_BUILD_CONSTRAINT", place, os.environ)]
        key = sha256_of(json.dumps(parts).encode())
        # Two builds need not give the same wheel, and all who lock this archive shall have one.
        with storage_errors(self.cache), locked(self.cache / "built" / f"{key}.lock"):
            known = read_built(self.cache, key)
            if known is None or not has_wheel(known, cache=self.cache):
                known = self._build(archive, None)
                write_built(self.cache, key, known)
        return known

    def rebuilt(self, package: LockedPackage, lock: Lock) -> None:
        """Build a wheel of `lock` again, of what it was built from, and put it into the cache.

        Raises LockError when the archive is offered no more, or when the wheel comes out as another one.
        """
        if package.built_from is None:
            raise ValueError(f"{package.name} was not built from a source archive")
        archive = locate_archive(package, package.built_from, lock, requirements=self.requirements)
        made = self._build(archive, package.built_from.requires)
        if made.sha256 != package.sha256:
            raise LockError(
                f"{package.name} {package.version}, built again from {archive.file}, is another wheel than the locked",
                details=(f"locked  sha256 {package.sha256}", f"built   sha256 {made.sha256}"),
                hint="Its build does not repeat: keep the folder `wheels` of the run beside its manifest.",
            )

    def _build(self, archive: SourceArchive, pinned: tuple[str, ...] | None) -> LockedPackage:
        title = f"{archive.name} {archive.version}"
        started = time.monotonic()
        with storage_errors(self.cache):
            self.cache.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=".building-", dir=self.cache))
            try:
                # Whatever the build writes it writes there: nothing is written there by others once it has run.
                shared, own = folder / "shared", folder / "own"
                shared.mkdir()
                own.mkdir()
                self.observer.working("build", f"{title}: fetching {archive.file}")
                fetch_archive(archive, shared / archive.file, requirements=self.requirements)
                tools = self._tools(archive, shared, pinned)
                self.observer.working("build", f"{title}: building its wheel")
                self._run(archive, tools, shared, "wheel")
                made = self._taken(archive, tools, _built_wheel(shared / "dist", archive), own)
            finally:
                # Not TemporaryDirectory, which changes modes on its way and, before Python 3.11.8, through links
                # (CVE-2023-6597). What a build made undeletable stays until `reprobox cache prune`.
                shutil.rmtree(folder, ignore_errors=True)
        taken = f"from {archive.file}, without a network   {time.monotonic() - started:.1f} s"
        self.observer.finished("built", f"{title}", taken)
        return made

    def _tools(self, archive: SourceArchive, folder: Path, pinned: tuple[str, ...] | None) -> Lock:
        """Return the lock of all that the build needs: what the project says, and what its backend asks for then."""
        if pinned is not None:
            return self._locked(archive, pinned)
        from reprobox.lock.sdist import asked_requires, build_requires  # few runs build anything

        said = build_requires(folder / archive.file)
        tools = self._locked(archive, (*said, _FRONTEND))
        self.observer.working("build", f"{archive.name} {archive.version}: asking what its build needs")
        self._run(archive, tools, folder, "requires")
        asked = asked_requires(folder / "requires.json", archive.file)
        return self._locked(archive, (*said, *asked, _FRONTEND)) if asked else tools

    def _locked(self, archive: SourceArchive, lines: Iterable[str]) -> Lock:
        try:
            return resolve_build(
                tuple(lines),
                shown=f"the build of {archive.name}",
                requirements=self.requirements,
                python=self.base.python,
                platform=self.platform,
                cache=self.cache,
                observer=self.observer,
                exclude_newer=self.exclude_newer,
            )
        except SourceOnlyError as error:
            names = ", ".join(f"{each.name} {each.version}" for each in error.archives)
            raise LockError(
                f"{archive.name} {archive.version} offers no wheel, nor does what its build needs: {names}",
                hint=f"Build the wheel of {error.archives[0].name} once (`pip wheel`) and name its folder with "
                f"find-links, or choose a version of {archive.name} that has a wheel.",
            ) from error

    def _run(self, archive: SourceArchive, tools: Lock, folder: Path, what: str) -> None:
        """Run pep517.py in a container with these tools."""
        from reprobox.lock import pep517

        paths = fetch_wheels(tools, requirements=self.requirements, cache=self.cache, observer=self.observer)
        pairs = [(package, paths[package.sha256]) for package in tools.packages]
        image = assemble(self.base, pairs, cache=self.cache, observer=self.observer)
        handle = load(image, self.store, observer=self.observer, name="build")
        script = Path(pep517.__file__).read_text(encoding="utf-8")
        try:
            self.store.run_once(
                handle, (f"{inside.ENVIRONMENT}/bin/python", "-c", script, inside.WORK, what), folder=folder
            )
        except ImageError as error:
            raise LockError(
                f"{archive.name} {archive.version} offers no wheel, and building one from {archive.file} failed",
                details=error.details,
                hint="If a compiler or a library is missing, add it to the base (image.apt: [gcc, python3-dev]); the "
                "build has no network. Else choose a version that has a wheel.",
            ) from error

    def _taken(self, archive: SourceArchive, tools: Lock, built: Path, folder: Path) -> LockedPackage:
        """Write the wheel that was built anew, in `folder`, and put it into the cache."""
        from packaging.utils import parse_wheel_filename
        from packaging.version import Version

        from reprobox.image.wheel import open_wheel
        from reprobox.lock.repack import repack, wheel_name

        expected = LockedPackage(
            name=archive.name, version=archive.version, file=f"the wheel built from {archive.file}", sha256="0" * 64
        )
        with open_wheel(expected, built) as wheel:
            tags = self._tags(wheel.text(f"{wheel.dist_info}/WHEEL") or "", archive)
            own = {f"{wheel.dist_info}/{name}" for name in ("WHEEL", "RECORD")}
            contents: dict[str, Path | bytes] = {}
            for number, name in enumerate(sorted(wheel.entries.keys() - own)):
                place = folder / f"file-{number}"
                with place.open("wb") as out:
                    out.writelines(wheel.chunks(name))
                place.chmod(0o755 if wheel.executable(name) else 0o644)
                contents[name] = place
            stem = wheel.stem
        # The folder in the wheel may spell the version in another way than everybody who reads the file's name.
        made = folder / wheel_name(archive.name, str(Version(stem.rpartition("-")[2])), tags)
        if len(made.name) > _LONGEST_NAME:
            raise LockError(f"the build of {archive.file} gave a wheel for {len(tags)} kinds of system at once")
        repack(stem, tags, contents, made)
        built_from = BuiltFrom(
            file=archive.file, sha256=archive.sha256, requires=tuple(each.pinned_line for each in tools.packages)
        )
        package = LockedPackage(
            name=archive.name,
            version=str(parse_wheel_filename(made.name)[1]),
            file=made.name,
            sha256=sha256_of_file(made),
            origin="sdist",
            built_from=built_from,
        )
        package.check()
        store_wheel(package, made, self.cache)
        return package

    def _tags(self, text: str, archive: SourceArchive) -> tuple[str, ...]:
        """Return the tags of a WHEEL file, one of which fits the base."""
        from packaging.tags import parse_tag

        tags = tuple(line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("Tag:"))
        for tag in tags:
            if _TAG.fullmatch(tag) is None:
                raise LockError(f"the build of {archive.file} gave a wheel with a tag that no wheel can have: {tag!r}")
        fitting = set(compatible_wheel_tags(self.base.python, self.platform))
        if not any(tag in fitting for text in tags for tag in parse_tag(text)):
            raise LockError(
                f"the build of {archive.file} gave a wheel for another system: {' '.join(tags) or 'without a tag'}",
                details=(f"expected one for Python {self.base.python} on {self.platform}",),
            )
        return tags


def _built_wheel(dist: Path, archive: SourceArchive) -> Path:
    """Return the one wheel that the build left: a file in a folder, and no link to one of this machine's."""
    found = [] if dist.is_symlink() else sorted(dist.glob("*.whl"))
    if len(found) != 1:
        raise LockError(f"the build of {archive.file} gave {len(found)} wheels", details=("expected one",))
    if not stat.S_ISREG(found[0].lstat().st_mode):
        raise LockError(f"the build of {archive.file} gave a link or special file where a wheel was expected")
    return found[0]


def resolve_building(
    engine: Engine,
    base: Base | None,
    requirements: Path,
    *,
    python: str,
    platform: str,
    cache: Path,
    observer: Observer,
    choices: Choices,
    renewal: Renewal | None = None,
) -> tuple[Lock, bool]:
    """Resolve as `resolve` does, and build what comes as source only, where the engine has containers to do it in.

    Raises as `resolve` and `Workshop.built`.
    """
    built: dict[str, LockedPackage] = {}
    while True:
        try:
            return resolve(
                requirements,
                python=python,
                platform=platform,
                cache=cache,
                observer=observer,
                choices=choices,
                renewal=renewal,
                built=built,
            )
        except SourceOnlyError as needed:
            missing = [archive for archive in needed.archives if archive.sha256 not in built]
            if base is None or not missing:
                raise
            workshop = Workshop(
                base=base,
                store=cast(ImageStore, engine),
                cache=cache,
                observer=observer,
                requirements=requirements,
                exclude_newer=choices.exclude_newer,
            )
            built |= {archive.sha256: workshop.built(archive) for archive in missing}
