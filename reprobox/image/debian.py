"""The Debian base: mmdebstrap's root file system, made the same to the bit wherever and whenever it is built.

mmdebstrap with SOURCE_DATE_EPOCH fixes times and order but copies the host's name, resolver and apt sources into the
tree (mmdebstrap(1), OPERATION); those, and what no read-only image needs, are left out here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from reprobox.cache import keep, locked, storage_errors
from reprobox.digests import hex_of, is_digest
from reprobox.errors import ImageError
from reprobox.files import read_chunks
from reprobox.image import layers
from reprobox.image.aptsources import SNAPSHOT_VARIABLE, debian_sources, snapshot_archive, snapshot_sources
from reprobox.image.dpkg import Installed, read_installed
from reprobox.image.layout import MTIME
from reprobox.image.tarstream import LayerWriter
from reprobox.progress import Observer

_HOOKS = Path("/usr/share/mmdebstrap/hooks/maybe-merged-usr")
_SUITE = re.compile(r"[a-z][a-z0-9.-]*")

# What mmdebstrap gets of the caller's variables: what finds programs, temporary space and the archive. It passes all on
# to the packages' own scripts, and PYTHONDONTWRITEBYTECODE, for one, made another base of the same packages.
_CALLERS = re.compile(r"PATH|HOME|USER|LOGNAME|TMPDIR|APT_CONFIG|SSL_CERT_(FILE|DIR)|\w+_proxy", re.IGNORECASE)

# What apt says in English (LC_ALL is set): apt-pkg/cacheset.cc, apt-private/private-cacheset.cc and private-output.cc.
_UNKNOWN_PACKAGE = re.compile(r"E: (?:Unable to locate package |Package '(?=.*has no installation))([a-z0-9+.-]+)")
_CONFLICT = "The following packages have unmet dependencies"
_UNREACHABLE = re.compile(r"E: (?:Failed to fetch|The repository) ")

# Debian's archive changes at most four times a day (wiki.debian.org/DebianRepository, dinstall), so building again any
# sooner, in search of the base that a manifest names, would give the same again.
_REBUILD_AFTER = 6 * 3600

# Contents that differ between machines, are caches or logs, or are documentation. Folders themselves stay.
_DROPPED = re.compile(
    r"""
    dev/.* | run/.* | tmp/.* | proc/.* | sys/.*
    | etc/(hostname|resolv\.conf|machine-id|mtab) | etc/(passwd|group|shadow|gshadow|subuid|subgid)- | etc/apt/.*
    | var/cache/.* | var/log/.* | var/tmp/.* | var/lib/apt/.* | var/lib/dpkg/(.*-old|lock.*) | var/lib/dbus/machine-id
    | usr/share/(man|info|locale|lintian|linda)/.* | usr/share/doc/[^/]+/(?!copyright$).*
    """,
    re.VERBOSE,
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a root is made from: a `suite`, the `packages` added to its essential ones, and the moment (UTC,
    `2026-11-01T00:00:00Z`) whose state of the archive is taken, None for today's.
    """

    suite: str
    packages: tuple[str, ...]
    snapshot: str | None = None

    @property
    def name(self) -> str:
        """The recipe as messages call it."""
        return self.suite if self.snapshot is None else f"{self.suite} as of {self.snapshot}"

    @property
    def key(self) -> str:
        """What the cache knows the newest root of this recipe by."""
        moment = () if self.snapshot is None else (self.snapshot,)
        return layers.input_key("debian with files", self.suite, *sorted(set(self.packages)), *moment)


@dataclass(frozen=True, kw_only=True)
class DebianRoot:
    """A built root: its one layer, and what is installed in it."""

    suite: str
    layer: layers.Layer
    installed: Installed

    def version_of(self, package: str) -> str:
        """Return a package's version. Raises ImageError when the root does not have it."""
        for item in self.installed.packages:
            name, _, version = item.partition("=")
            if name == package:
                return version
        raise ImageError(f"the Debian base {self.suite} has no package {package}", hint="choose another suite")


def debian_root(
    recipe: Recipe, *, cache: Path, observer: Observer, wanted: str | None = None
) -> tuple[DebianRoot, bool]:
    """Return the root that `recipe` gives, and whether the cache had it.

    `wanted` is the digest that a manifest names: a cached root with that digest is taken, else one is built, which may
    turn out to be another. Raises ImageError when mmdebstrap is missing or fails, StorageError when the cache is full.
    """
    _check(recipe)
    newest = cache / "bases" / f"debian-{recipe.key}.json"
    with storage_errors(cache), locked(newest.with_suffix(".lock")):
        known = _read(_by_digest(cache, wanted)) if wanted else None
        if known is not None and layers.holds(cache, known.layer):
            return known, True
        known = _read(newest)
        if known is not None and layers.holds(cache, known.layer):
            # A snapshot never changes.
            fresh = recipe.snapshot is not None or time.time() - newest.stat().st_mtime < _REBUILD_AFTER
            if wanted is None or known.layer.diff_id == wanted or fresh:
                return known, True
        root = _build(recipe, cache=cache, observer=observer)
        facts = {"suite": root.suite, "diff_id": root.layer.diff_id, "size": root.layer.size}
        content = json.dumps(facts | asdict(root.installed)).encode()
        keep(_by_digest(cache, root.layer.diff_id), content)
        keep(newest, content)
        return root, False


def rebuild_root(recipe: Recipe, layer: layers.Layer, *, cache: Path, observer: Observer) -> None:
    """Make a lost or damaged root layer again. Raises ImageError when Debian has moved on and it is another by now."""
    layers.layer_path(cache, layer.diff_id).unlink(missing_ok=True)
    root, _ = debian_root(recipe, cache=cache, observer=observer, wanted=layer.diff_id)
    if root.layer.diff_id != layer.diff_id:
        raise ImageError(
            f"the cached Debian base {recipe.name} was damaged, and Debian's archive has changed since it was built",
            details=(f"expected {layer.diff_id}", f"built    {root.layer.diff_id}"),
            hint="run again: the new base is taken, and the image gets a new ID",
        )


def _check(recipe: Recipe) -> None:
    if not _SUITE.fullmatch(recipe.suite):
        raise ImageError(f"not a Debian suite: {recipe.suite!r}", hint="use a name such as debian:bookworm")
    if recipe.snapshot is not None and datetime.fromisoformat(recipe.snapshot) > datetime.now(UTC):
        # Asked for a moment to come, the archive of snapshots gives its newest state: another one each day.
        raise ImageError(
            f"the snapshot {recipe.snapshot} lies in the future",
            hint="name a moment at least a day ago; before that, the archive may not be complete",
        )


def _by_digest(cache: Path, digest: str) -> Path:
    return cache / "bases" / f"debian-root-{hex_of(digest)}.json"


def _read(path: Path) -> DebianRoot | None:
    found = layers.read_json(path)
    if not isinstance(found, dict) or not is_digest(found.get("diff_id")):
        return None
    return DebianRoot(
        suite=str(found["suite"]),
        layer=layers.Layer(diff_id=found["diff_id"], size=int(found["size"]), made_from="base"),
        installed=Installed(
            packages=tuple(found["packages"]),
            architecture=str(found["architecture"]),
            debs=tuple(found.get("debs", ())),
        ),
    )


def _build(recipe: Recipe, *, cache: Path, observer: Observer) -> DebianRoot:
    program = shutil.which("mmdebstrap")
    if program is None:
        raise ImageError(
            "the Debian base needs mmdebstrap, which is not on this machine",
            hint="apt install mmdebstrap; or name another base: image.base: python:3.11-slim, or local:IMAGE",
        )
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".debian-", dir=cache) as folder:
        raw = Path(folder) / "root.tar"
        _bootstrap(program, recipe, raw, observer)
        observer.working("base", f"debian {recipe.name}: normalising the file system")
        with tarfile.open(raw) as archive:
            installed = read_installed(archive)
            layer = layers.write_layer(cache, f"debian-{recipe.suite}", "base", lambda out: _normalise(archive, out))
    return DebianRoot(suite=recipe.suite, layer=layer, installed=installed)


def _bootstrap(program: str, recipe: Recipe, target: Path, observer: Observer) -> None:
    command = [program, "--variant=essential", "--format=tar", f"--include={','.join(sorted(set(recipe.packages)))}"]
    # They tell the sha256 of every package; `_DROPPED` keeps them out of the base.
    command.append("--skip=cleanup/apt/lists")
    if _HOOKS.is_dir():
        # Without it apt satisfies init-system-helpers with usrmerge, which brings 50 MB of Perl along.
        command.append(f"--hook-dir={_HOOKS}")
    if recipe.snapshot is None:
        command += [recipe.suite, "-", *debian_sources(recipe.suite, Path("/etc/apt"))]
    else:
        command += [recipe.suite, "-", *snapshot_sources(recipe.suite, recipe.snapshot)]
    environment = {name: value for name, value in os.environ.items() if _CALLERS.fullmatch(name)}
    environment |= {"SOURCE_DATE_EPOCH": str(MTIME), "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    said: list[str] = []
    with (
        target.open("wb") as out,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, env=environment, umask=0o022
        ) as process,
    ):
        try:
            assert process.stderr is not None
            for raw in process.stderr:
                line = raw.decode(errors="replace").rstrip()
                said.append(line)
                if line.startswith("I: "):
                    observer.working("base", f"debian {recipe.name}: {line[3:]}")
            status = process.wait()
        finally:
            if process.poll() is None:
                # mmdebstrap removes its folder and mounts when it is asked to end, not when it is killed.
                process.terminate()
    if status != 0:
        raise _failure(recipe, status, said)


def _failure(recipe: Recipe, status: int, said: Sequence[str]) -> ImageError:
    """Say why mmdebstrap failed, in apt's words where it was apt that did."""
    unknown = sorted({match[1] for line in said if (match := _UNKNOWN_PACKAGE.match(line))})
    if unknown:
        return ImageError(
            f"Debian {recipe.name} has no package {' and no package '.join(unknown)}",
            details=tuple(line for line in said if _UNKNOWN_PACKAGE.match(line)),
            hint="https://packages.debian.org/ finds names by word or by a file in the package; only the component "
            "main is looked at",
        )
    at = next((number for number, line in enumerate(said) if line.startswith(_CONFLICT)), None)
    if at is not None:
        return ImageError(
            f"these packages cannot be installed together in Debian {recipe.name}",
            details=tuple(line for line in said[at + 1 :] if line.startswith((" ", "E: ")))[:12],
            hint="leave one of them out of image.apt",
        )
    if recipe.snapshot is not None and any(_UNREACHABLE.match(line) for line in said):
        return ImageError(
            f"Debian's archive as of {recipe.snapshot} cannot be had from {snapshot_archive()}",
            details=tuple(line for line in said if _UNREACHABLE.match(line))[:6],
            hint=f"name a mirror of snapshot.debian.org in {SNAPSHOT_VARIABLE}, or leave image.snapshot out to take "
            "the archive as it is today",
        )
    return ImageError(
        f"mmdebstrap could not build Debian {recipe.name} (exit {status})",
        details=tuple(said[-12:]),
        hint="check that Debian's archive can be reached and that the suite exists; or name another base",
    )


def _normalise(archive: tarfile.TarFile, out: LayerWriter) -> None:
    """Write the tree sorted, without what is dropped, every time the same."""
    members = {str(PurePosixPath(member.name)): member for member in archive.getmembers()}
    for path in sorted(members):
        member = members[path]
        if path == "." or _DROPPED.fullmatch(path):
            continue
        owner = {"uid": member.uid, "gid": member.gid}
        if member.isdir():
            out.folder(path, mode=member.mode, **owner)
        elif member.issym():
            out.symlink(path, member.linkname, **owner)
        elif member.isreg() or member.islnk():
            # A hard link becomes a second copy: sorting could put it before the file that it points to.
            source = members[str(PurePosixPath(member.linkname))] if member.islnk() else member
            content: BinaryIO | None = archive.extractfile(source)  # type: ignore[assignment]
            assert content is not None
            out.file(path, source.size, read_chunks(content), mode=member.mode, **owner)
        else:
            raise ImageError(f"the Debian base holds a device or pipe: {path}", hint="report this")
