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
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from reprobox.cache import locked, storage_errors, write_atomically
from reprobox.errors import ImageError
from reprobox.image import layers
from reprobox.image.aptsources import debian_sources
from reprobox.image.layout import MTIME
from reprobox.image.tarstream import LayerWriter, read_chunks
from reprobox.progress import Observer

_HOOKS = Path("/usr/share/mmdebstrap/hooks/maybe-merged-usr")
_SUITE = re.compile(r"[a-z][a-z0-9.-]*")

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
class DebianRoot:
    """A built root: its one layer, `name=version` of its packages (sorted) and its architecture (`amd64`)."""

    suite: str
    layer: layers.Layer
    packages: tuple[str, ...]
    architecture: str

    def version_of(self, package: str) -> str:
        """Return a package's version. Raises ImageError when the root does not have it."""
        for item in self.packages:
            name, _, version = item.partition("=")
            if name == package:
                return version
        raise ImageError(f"the Debian base {self.suite} has no package {package}", hint="choose another suite")


def debian_root(
    suite: str, includes: tuple[str, ...], *, cache: Path, observer: Observer, wanted: str | None = None
) -> tuple[DebianRoot, bool]:
    """Return the root of `suite` with the packages `includes`, and whether the cache had it.

    `wanted` is the digest that a manifest names: a cached root with that digest is taken, else one is built, which may
    turn out to be another. Raises ImageError when mmdebstrap is missing or fails, StorageError when the cache is full.
    """
    if not _SUITE.fullmatch(suite):
        raise ImageError(f"not a Debian suite: {suite!r}", hint="use a name such as debian:bookworm")
    newest = cache / "bases" / f"debian-{layers.input_key('debian', suite, *sorted(includes))}.json"
    with storage_errors(cache), locked(newest.with_suffix(".lock")):
        known = _read(_by_digest(cache, wanted)) if wanted else None
        if known is not None and layers.holds(cache, known.layer):
            return known, True
        known = _read(newest)
        if known is not None and layers.holds(cache, known.layer):
            fresh = time.time() - newest.stat().st_mtime < _REBUILD_AFTER
            if wanted is None or known.layer.diff_id == wanted or fresh:
                return known, True
        root = _build(suite, includes, cache=cache, observer=observer)
        content = json.dumps(
            {
                "suite": suite,
                "diff_id": root.layer.diff_id,
                "size": root.layer.size,
                "packages": root.packages,
                "architecture": root.architecture,
            }
        ).encode()
        write_atomically(_by_digest(cache, root.layer.diff_id), content)
        write_atomically(newest, content)
        return root, False


def rebuild_root(
    suite: str, includes: tuple[str, ...], layer: layers.Layer, *, cache: Path, observer: Observer
) -> None:
    """Make a lost or damaged root layer again. Raises ImageError when Debian has moved on and it is another by now."""
    layers.layer_path(cache, layer.diff_id).unlink(missing_ok=True)
    root, _ = debian_root(suite, includes, cache=cache, observer=observer, wanted=layer.diff_id)
    if root.layer.diff_id != layer.diff_id:
        raise ImageError(
            f"the cached Debian base {suite} was damaged, and Debian's archive has changed since it was built",
            details=(f"expected {layer.diff_id}", f"built    {root.layer.diff_id}"),
            hint="run again: the new base is taken, and the image gets a new ID",
        )


def _by_digest(cache: Path, digest: str) -> Path:
    return cache / "bases" / f"debian-root-{digest.removeprefix('sha256:')}.json"


def _read(path: Path) -> DebianRoot | None:
    found = layers.read_json(path)
    if not isinstance(found, dict) or not layers.is_digest(found.get("diff_id")):
        return None
    return DebianRoot(
        suite=str(found["suite"]),
        layer=layers.Layer(diff_id=found["diff_id"], size=int(found["size"]), made_from="base"),
        packages=tuple(found["packages"]),
        architecture=str(found["architecture"]),
    )


def _build(suite: str, includes: tuple[str, ...], *, cache: Path, observer: Observer) -> DebianRoot:
    program = shutil.which("mmdebstrap")
    if program is None:
        raise ImageError(
            "the Debian base needs mmdebstrap, which is not on this machine",
            hint="apt install mmdebstrap; or name another base: image.base: python:3.11-slim, or local:IMAGE",
        )
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".debian-", dir=cache) as folder:
        raw = Path(folder) / "root.tar"
        _bootstrap(program, suite, includes, raw, observer)
        observer.working("base", f"debian {suite}: normalising the file system")
        with tarfile.open(raw) as archive:
            packages, architecture = _packages(archive)
            layer = layers.write_layer(cache, f"debian-{suite}", "base", lambda out: _normalise(archive, out))
    return DebianRoot(suite=suite, layer=layer, packages=packages, architecture=architecture)


def _bootstrap(program: str, suite: str, includes: Iterable[str], target: Path, observer: Observer) -> None:
    command = [program, "--variant=essential", "--format=tar", f"--include={','.join(sorted(includes))}"]
    if _HOOKS.is_dir():
        # Without it apt satisfies init-system-helpers with usrmerge, which brings 50 MB of Perl along.
        command.append(f"--hook-dir={_HOOKS}")
    command += [suite, "-", *debian_sources(suite, Path("/etc/apt"))]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(MTIME), "LC_ALL": "C.UTF-8", "TZ": "UTC"}
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
                    observer.working("base", f"debian {suite}: {line[3:]}")
            status = process.wait()
        finally:
            if process.poll() is None:
                # mmdebstrap removes its folder and mounts when it is asked to end, not when it is killed.
                process.terminate()
    if status != 0:
        raise ImageError(
            f"mmdebstrap could not build Debian {suite} (exit {status})",
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


def _packages(archive: tarfile.TarFile) -> tuple[tuple[str, ...], str]:
    """Return `name=version` of every installed package, sorted, and libc's architecture (dpkg's status file)."""
    source = archive.extractfile("./var/lib/dpkg/status")
    assert source is not None
    packages: list[str] = []
    architecture = ""
    for stanza in source.read().decode().split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", stanza, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            packages.append(f"{fields['Package']}={fields['Version']}")
            if fields["Package"] == "libc6":
                architecture = fields["Architecture"]
    return tuple(sorted(packages)), architecture
