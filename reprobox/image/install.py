"""What installing a wheel means: which of its files goes where in the environment, and what is written beside them.

Follows the binary distribution format's "Installing a wheel distribution" (PEP 427), "Recording installed
projects" (PEP 376, 627) and the entry points specification. Nothing of the wheel is executed or imported.
"""

from __future__ import annotations

import configparser
import csv
import io
import posixpath
import re
from dataclasses import dataclass
from pathlib import Path

from reprobox import inside
from reprobox.errors import ImageError
from reprobox.image.layout import site_packages
from reprobox.image.wheel import RecordRow, Wheel, path_problem, record_hash, refused
from reprobox.lock.model import LockedPackage

_INSTALLER = b"reprobox\n"
_MAX_SCRIPT = 16 << 20
_NAME = r"[^\W\d]\w*"
_ENTRY_POINT = re.compile(
    rf"^\s*(?P<module>{_NAME}(?:\.{_NAME})*)\s*:\s*(?P<attribute>{_NAME}(?:\.{_NAME})*)\s*(?:\[.*\])?\s*$"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class InstalledFile:
    """One file of the environment: `target` is relative to it; the content is `entry` of the wheel, or `content`."""

    target: str
    mode: int
    size: int
    entry: str | None = None
    content: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Installation:
    """All files that one wheel puts into the environment, sorted by target; `path` is the wheel, `title` its
    name and version as it spells them itself.
    """

    package: LockedPackage
    path: Path
    title: str
    files: tuple[InstalledFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)


def plan_installation(wheel: Wheel, path: Path, python: str) -> Installation:
    """Say what the open wheel at `path` becomes in an environment of Python `3.11`. Raises ImageError when refused."""
    site = site_packages(python)
    wrappers = _wrappers(wheel)
    files: dict[str, InstalledFile] = {}
    rows: list[tuple[str, str, str]] = []
    record_name = f"{wheel.dist_info}/RECORD"
    for name in wheel.entries:
        if name in (record_name, f"{wheel.dist_info}/INSTALLER"):
            continue
        target, is_script = _target(wheel, name, site)
        if is_script and posixpath.basename(target) in wrappers:
            continue
        if target in files:
            raise refused(wheel.package, f"two of its files become {target}")
        installed = _script(wheel, name, target) if is_script else _plain(wheel, name, target)
        files[target] = installed
        rows.append(_row(installed, site, wheel.record(name)))
    generated = {f"bin/{name}": (0o755, content) for name, content in wrappers.items()}
    generated[f"{site}/{wheel.dist_info}/INSTALLER"] = (0o644, _INSTALLER)
    for target, (mode, content) in generated.items():
        if target in files:
            raise refused(wheel.package, f"two of its files become {target}")
        files[target] = InstalledFile(target=target, mode=mode, size=len(content), content=content)
        rows.append(_row(files[target], site, None))
    record = _record(rows, record_name)
    target = f"{site}/{record_name}"
    files[target] = InstalledFile(target=target, mode=0o644, size=len(record), content=record)
    ordered = tuple(files[target] for target in sorted(files))
    return Installation(package=wheel.package, path=path, title=wheel.stem, files=ordered)


def _target(wheel: Wheel, name: str, site: str) -> tuple[str, bool]:
    """Return where a file of the wheel goes, and whether it is a script."""
    top, _, rest = name.partition("/")
    if not top.endswith(".data") or not rest:
        return f"{site}/{name}", False
    if top != f"{wheel.stem}.data":
        raise refused(wheel.package, f"a data folder that is not its own: {top}", f"expected {wheel.stem}.data")
    scheme, _, inner = rest.partition("/")
    places = {
        "purelib": site,
        "platlib": site,
        "scripts": "bin",
        "data": "",
        # Where pip puts headers in a virtual environment.
        "headers": f"include/site/{posixpath.basename(posixpath.dirname(site))}/{wheel.package.name}",
    }
    if scheme not in places or not inner:
        raise refused(wheel.package, f"a data folder of unknown kind: {name}", f"expected one of {', '.join(places)}")
    return posixpath.join(places[scheme], inner), scheme == "scripts"


def _plain(wheel: Wheel, name: str, target: str) -> InstalledFile:
    mode = 0o755 if wheel.executable(name) else 0o644
    return InstalledFile(target=target, mode=mode, size=wheel.entries[name].file_size, entry=name)


def _script(wheel: Wheel, name: str, target: str) -> InstalledFile:
    """Return a script; one that begins with `#!python` gets the environment's interpreter."""
    if not wheel.head(name, 8).startswith(b"#!python"):
        return InstalledFile(target=target, mode=0o755, size=wheel.entries[name].file_size, entry=name)
    first, newline, rest = wheel.content(name, limit=_MAX_SCRIPT).partition(b"\n")
    # `#!pythonw` means the same interpreter here; what follows it are arguments.
    _, space, arguments = first.partition(b" ")
    content = f"#!{inside.ENVIRONMENT}/bin/python".encode() + space + arguments + newline + rest
    return InstalledFile(target=target, mode=0o755, size=len(content), content=content)


def _wrappers(wheel: Wheel) -> dict[str, bytes]:
    """Return the scripts for the wheel's console and GUI entry points, by name."""
    text = wheel.text(f"{wheel.dist_info}/entry_points.txt")
    if text is None:
        return {}
    parser = configparser.RawConfigParser(delimiters=("=",), strict=False, default_section="")
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        parser.read_string(text)
    except configparser.Error as error:
        raise refused(wheel.package, "entry_points.txt cannot be read", str(error)) from error
    wrappers: dict[str, bytes] = {}
    for section in ("gui_scripts", "console_scripts"):
        if not parser.has_section(section):
            continue
        for name, reference in parser.items(section):
            match = _ENTRY_POINT.match(reference)
            if match is None or "/" in name or path_problem(name):
                raise refused(wheel.package, f"an entry point that is no function: {name} = {reference}")
            wrappers[name] = _wrapper(match["module"], match["attribute"])
    return wrappers


def _wrapper(module: str, attribute: str) -> bytes:
    lines = (
        f"#!{inside.ENVIRONMENT}/bin/python",
        "import sys",
        "",
        f"from {module} import {attribute.split('.')[0]}",
        "",
        'if __name__ == "__main__":',
        f"    sys.exit({attribute}())",
        "",
    )
    return "\n".join(lines).encode()


def _row(file: InstalledFile, site: str, stated: RecordRow | None) -> tuple[str, str, str]:
    """Return RECORD's line on an installed file; the hash of an unchanged file is the one that the wheel states."""
    path = posixpath.relpath(file.target, site)
    if file.content is not None:
        return path, record_hash(file.content), str(file.size)
    hashed = f"{stated.algorithm}={stated.value}" if stated is not None and stated.algorithm else ""
    return path, hashed, str(file.size)


def _record(rows: list[tuple[str, str, str]], record_name: str) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(sorted([*rows, (record_name, "", "")]))
    return text.getvalue().encode()


def check_ownership(installations: list[Installation], wheels: dict[str, Wheel], reserved: dict[str, str]) -> None:
    """Check that no path of the environment has two contents, or is file and folder at once.

    `wheels` are the open wheels by name, `reserved` the paths of the environment itself and what they are. Two wheels
    may hold one file if its content is the same (namespace packages do). Raises ImageError naming both owners.
    """
    files: dict[str, tuple[Installation, InstalledFile]] = {}
    folders: dict[str, Installation] = {}
    for installation in installations:
        for file in installation.files:
            if file.target in reserved:
                raise refused(installation.package, f"it would replace {reserved[file.target]}: {file.target}")
            other = files.get(file.target)
            if other is None:
                files[file.target] = (installation, file)
            elif not _same_content(wheels, other, (installation, file)):
                raise _clash(other[0], installation, file.target, "hold one file with different content")
            parent = posixpath.dirname(file.target)
            while parent and parent not in folders:
                folders[parent] = installation
                parent = posixpath.dirname(parent)
    for path in folders.keys() & reserved.keys():
        raise refused(folders[path].package, f"it would replace {reserved[path]}: {path}")
    for path in sorted(folders.keys() & files.keys()):
        raise _clash(files[path][0], folders[path], path, "want one path as a file and as a folder")


def _clash(one: Installation, other: Installation, path: str, what: str) -> ImageError:
    names = [f"{installation.package.name} {installation.package.version}" for installation in (one, other)]
    return ImageError(
        f"two wheels {what}: {names[0]} and {names[1]}: {path}",
        hint="remove one of the two from the requirements: which one wins would be chance",
    )


def _same_content(
    wheels: dict[str, Wheel], one: tuple[Installation, InstalledFile], other: tuple[Installation, InstalledFile]
) -> bool:
    return (
        one[1].size == other[1].size
        and one[1].mode == other[1].mode
        and _digest(wheels, *one) == _digest(wheels, *other)
    )


def _digest(wheels: dict[str, Wheel], installation: Installation, file: InstalledFile) -> bytes:
    import hashlib

    digest = hashlib.sha256(file.content or b"")
    if file.entry is not None:
        for chunk in wheels[installation.package.name].chunks(file.entry):
            digest.update(chunk)
    return digest.digest()
