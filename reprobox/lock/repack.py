"""Installed files packed into a wheel again, for what no index offers: the same files always give the same bytes."""

from __future__ import annotations

import ast
import base64
import csv
import hashlib
import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

from reprobox.errors import LockError

# The earliest time that a zip archive can hold.
_TIME = (1980, 1, 1, 0, 0, 0)
# What the installer writes itself, or what says where the files came from on this machine.
_OWN_FILES = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json"})
_BLOCK = 1 << 20
_NO_PACKAGES = frozenset({"tests", "test", "docs", "examples", "build", "dist"})


# What stands under a path of the wheel: a file to be copied with its mode, or bytes made here.
Contents = Mapping[str, Path | bytes]


def wheel_name(name: str, version: str, tags: tuple[str, ...]) -> str:
    """Return the file name of a wheel with these tags of WHEEL: one of each kind, joined as PEP 425 has it."""
    kinds = zip(*(tag.split("-") for tag in tags), strict=True)
    return f"{name.replace('-', '_')}-{version}-{'-'.join('.'.join(dict.fromkeys(kind)) for kind in kinds)}.whl"


def repack(stem: str, tags: tuple[str, ...], contents: Contents, target: Path) -> None:
    """Write a wheel of `contents` to `target`; WHEEL and RECORD are made anew. `stem` is `name-version`."""
    info = f"{stem}.dist-info"
    pure = all(tag.endswith("-any") for tag in tags)
    head = f"Wheel-Version: 1.0\nGenerator: reprobox\nRoot-Is-Purelib: {'true' if pure else 'false'}\n"
    files = {**contents, f"{info}/WHEEL": (head + "".join(f"Tag: {tag}\n" for tag in tags)).encode()}
    rows: list[tuple[str, str, str | int]] = []
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for path in sorted(files):
            rows.append((path, *_add(archive, path, files[path])))
        record = io.StringIO()
        csv.writer(record, lineterminator="\n").writerows([*rows, (f"{info}/RECORD", "", "")])
        _add(archive, f"{info}/RECORD", record.getvalue().encode())


def _add(archive: zipfile.ZipFile, path: str, content: Path | bytes) -> tuple[str, int]:
    """Add one file; return its hash as RECORD writes it and its size."""
    entry = zipfile.ZipInfo(path, _TIME)
    entry.compress_type = zipfile.ZIP_DEFLATED
    executable = isinstance(content, Path) and content.stat().st_mode & 0o100
    entry.external_attr = (0o100755 if executable else 0o100644) << 16
    # Its size decides how its header is written.
    entry.file_size = content.stat().st_size if isinstance(content, Path) else len(content)
    digest = hashlib.sha256()
    with (
        archive.open(entry, "w") as out,
        content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as data,
    ):
        while block := data.read(_BLOCK):
            digest.update(block)
            out.write(block)
    return "sha256=" + base64.urlsafe_b64encode(digest.digest()).decode().rstrip("="), entry.file_size


def installed_contents(site: Path, files: list[str], stem: str) -> dict[str, Path | bytes]:
    """Return what a wheel of an installed distribution holds: its files in `site`, and its data files.

    Scripts are left out, as an installer makes those of entry points; others in `bin` become scripts of the wheel.
    """
    contents: dict[str, Path | bytes] = {}
    # Older tools spelled this folder's name another way than the wheel will.
    info = next((file.partition("/")[0] for file in files if re.fullmatch(r"[^/]+\.dist-info/METADATA", file)), "")
    entry_points = _names_of_entry_points(site / info / "entry_points.txt")
    for file in files:
        path = (site / file).resolve()
        if not file.startswith("../"):
            if not file.startswith(f"{info}/"):
                contents[file] = path
            elif file.removeprefix(f"{info}/") not in _OWN_FILES:
                contents[f"{stem}.dist-info{file.removeprefix(info)}"] = path
        elif path.parent.name == "bin":
            if path.name not in entry_points:
                contents[f"{stem}.data/scripts/{path.name}"] = _script(path)
        else:
            # site-packages lies in lib/pythonX.Y of the environment's prefix.
            prefix = site.parent.parent.parent.resolve()
            contents[f"{stem}.data/data/{path.relative_to(prefix).as_posix()}"] = path
    return contents


def editable_contents(
    name: str, site: Path, files: list[str], top_level: list[str], stem: str
) -> dict[str, Path | bytes]:
    """Return what a wheel of an editable install holds: the packages that an import finds in its source folder.

    Raises LockError when its kind of editable install does not say where that is.
    """
    contents = {
        path: content
        for path, content in installed_contents(site, files, stem).items()
        if path.startswith(f"{stem}.dist-info/")
    }
    roots: dict[str, Path] = {}
    for file in files:
        if file.startswith("__editable__") and file.endswith("_finder.py"):
            roots |= _mapping(site / file)
        elif file.endswith(".pth"):
            for line in (site / file).read_text(encoding="utf-8").splitlines():
                if line.strip() and not line.startswith(("import ", "import\t", "#")):
                    roots |= _packages_in((site / line.strip()).resolve(), top_level)
    if not roots:
        raise LockError(
            f"{name} is installed as editable in a way that does not say where its source is",
            details=("expected a path in a .pth file, or the finder of setuptools",),
            hint="Install it as a wheel (`pip install PATH` without -e), or put its source into the project.",
        )
    for package, root in sorted(roots.items()):
        for path in [root] if root.is_file() else sorted(root.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
                inner = path.relative_to(root).as_posix() if root.is_dir() else ""
                contents[f"{package.replace('.', '/')}/{inner}" if inner else path.name] = path
    return contents


def _packages_in(folder: Path, top_level: list[str]) -> dict[str, Path]:
    """Return the packages and modules in a folder that a .pth file names: those declared, else every package."""
    names = top_level or [
        path.parent.name for path in sorted(folder.glob("*/__init__.py")) if path.parent.name not in _NO_PACKAGES
    ]
    found = {name: folder / name for name in names if (folder / name).is_dir()}
    return found | {name: folder / f"{name}.py" for name in names if (folder / f"{name}.py").is_file()}


def _mapping(finder: Path) -> dict[str, Path]:
    """Read MAPPING, which setuptools writes into the finder of an editable install, without running it."""
    for node in ast.parse(finder.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(target, ast.Name) and target.id == "MAPPING" for target in targets):
            found = {str(name): Path(path) for name, path in ast.literal_eval(node.value).items()}
            return {name: path if path.exists() else path.with_suffix(".py") for name, path in found.items()}
    return {}


def _script(path: Path) -> Path | bytes:
    """Return a script with the first line that an installer replaces by the interpreter of the environment."""
    with path.open("rb") as handle:
        first = handle.readline(512)
        if not first.startswith(b"#!") or b"python" not in first:
            return path
        return b"#!python\n" + handle.read()


def _names_of_entry_points(path: Path) -> set[str]:
    if not path.is_file():
        return set()
    lines = path.read_text(encoding="utf-8").splitlines()
    return {line.partition("=")[0].strip() for line in lines if "=" in line}
