"""Where locked wheels are to be had today: uv asks the user's indexes for exactly these files."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from reprobox.errors import LockError
from reprobox.lock.model import BuiltFrom, Lock, LockedPackage, SourceArchive, SourceOnlyError, Sources, torch_build
from reprobox.lock.pylock import UnpromisedError, offered_wheels, select_wheels
from reprobox.lock.requirements import settings_for
from reprobox.lock.requirements_text import IndexOptions
from reprobox.lock.settings import Settings
from reprobox.lock.source_only import compile_with_sources
from reprobox.lock.uv_command import UvFailure, compile_pylock
from reprobox.lock.uv_words import explain, no_solution

# Settings of uv that restrict versions; what is asked for here is given by hash, and no rule for choosing applies.
_RESTRICTING = ("UV_CONSTRAINT", "UV_OVERRIDE", "UV_EXCLUDE", "UV_EXCLUDE_NEWER", "UV_BUILD_CONSTRAINT")


def locate(packages: Sequence[LockedPackage], lock: Lock, options: IndexOptions, settings: Settings) -> Sources:
    """Return where each of `packages` (of `lock`) is offered.

    `options` are the index options of the requirements file, if there is one: in a replay there is only a manifest.
    Raises LockError naming every wheel that none of the user's indexes offers any more.
    """
    unrestricted = _unrestricted(settings)
    wanted = {package.sha256 for package in packages}
    found = _offered(packages, lock, options, unrestricted, lock.platform)
    missing = [package for package in packages if package.sha256 not in found]
    if missing:
        # A wheel that fits better may have been added to the release since; only a universal resolution lists them all.
        found |= _offered(missing, lock, options, unrestricted, None)
    for backend in sorted({build for package in missing if (build := torch_build(package.version))}):
        # PyTorch's CPU and CUDA builds lie on indexes of their own, which uv knows by these names.
        wanted_there = [package for package in missing if torch_build(package.version) == backend]
        with contextlib.suppress(LockError):
            found |= _offered(wanted_there, lock, options, unrestricted, None, ("--torch-backend", backend))
    missing = [package for package in missing if package.sha256 not in found]
    if missing:
        raise not_offered(missing)
    return {sha256: source for sha256, source in found.items() if sha256 in wanted}


def locate_archive(
    package: LockedPackage, built_from: BuiltFrom, lock: Lock, *, requirements: Path | None
) -> SourceArchive:
    """Return where the source archive is offered that a wheel of `lock` was built from.

    Raises LockError when none of the user's indexes offers it any more.
    """
    settings, options = settings_for(requirements)
    settings = _unrestricted(settings)
    try:
        document = compile_with_sources(
            f"{options.text}{package.name}=={package.version} --hash=sha256:{built_from.sha256}\n",
            settings,
            names=frozenset((package.name,)),
            python=lock.python,
            platform=lock.platform,
            arguments=("--no-deps",),
        ).document
        select_wheels(
            document,
            python=lock.python,
            platform=lock.platform,
            shown="uv's answer",
            folder=settings.folder,
            promised={package.name: frozenset((built_from.sha256,))},
        )
    except SourceOnlyError as found:
        return found.archives[0]
    except UvFailure as failure:
        if not no_solution(failure):
            raise explain(failure, source="the lock", python=lock.python, platform=lock.platform) from None
    except UnpromisedError:
        pass
    raise not_offered([package])


def not_offered(missing: Sequence[LockedPackage]) -> LockError:
    """Return the error for locked wheels that nobody offers."""
    first = missing[0]
    more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
    if first.built_from is not None:
        return LockError(
            f"{first.name} {first.version} is not here: it was built from {first.built_from.file}, no index offers it, "
            f"and it cannot be built again{more}",
            details=tuple(f"missing: {package.file}, sha256 {package.sha256}" for package in missing),
            hint="Keep the folder `wheels` of the run (or of the project) beside its manifest (or its pylock.toml); "
            "or use the docker engine with an index that offers the source archive.",
        )
    if first.origin is not None:
        return LockError(
            f"{first.name} {first.version} is not here: it was packed from the author's own environment "
            f"({first.origin}), and no index offers it{more}",
            details=tuple(f"missing: {package.file}, sha256 {package.sha256}" for package in missing),
            hint="Keep the folder `wheels` of the run (or of the project) beside its manifest (or its pylock.toml).",
        )
    return LockError(
        f"the lock no longer resolves: {first.name} {first.version} (file {first.file}) is not offered by "
        f"any index that you have configured{more}",
        details=tuple(f"missing: {package.file}, sha256 {package.sha256}" for package in missing),
        hint="Add the index or folder that holds it to pip's settings (extra-index-url, find-links), or ask the author "
        "for a packed run (reprobox pack), which carries its wheels.",
    )


def _unrestricted(settings: Settings) -> Settings:
    environment = {name: value for name, value in settings.environment.items() if name not in _RESTRICTING}
    return replace(settings, environment=environment)


def _offered(
    packages: Sequence[LockedPackage],
    lock: Lock,
    options: IndexOptions,
    settings: Settings,
    platform: str | None,
    arguments: tuple[str, ...] = (),
) -> Sources:
    text = options.text + "".join(f"{package.pinned_line}\n" for package in packages)
    try:
        compiled = compile_pylock(
            text, settings, python=lock.python, platform=platform, arguments=("--no-deps", *arguments)
        )
    except UvFailure as failure:
        if not no_solution(failure):
            raise explain(failure, source="the lock", python=lock.python, platform=lock.platform) from None
        if len(packages) == 1:
            return {}
        # One release that is gone makes the whole resolution fail: ask for each, to name all that are gone.
        each = [_offered([package], lock, options, settings, platform, arguments) for package in packages]
        return {sha256: source for sources in each for sha256, source in sources.items()}
    return offered_wheels(compiled.document, shown="uv's answer", folder=settings.folder)
