"""Packages of which there are only source archives: which archives a resolution asks for, found without running them.

To learn what a source archive depends on, its own code may have to be run, which uv would do here and now, with the
network and the user's rights. So uv is told that those packages depend on nothing (its setting `dependency-metadata`),
which gives their versions under everything that restricts them. What they really depend on is known from their wheels
once these are built, elsewhere and confined; the resolution is then repeated with the wheels.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from reprobox.lock.model import LockedPackage
from reprobox.lock.settings import Settings, uv_tables
from reprobox.lock.uv_command import Compiled, UvFailure, compile_pylock
from reprobox.lock.uv_words import without_wheels

# What of the user's settings of uv says where and among what to look; uv reads one file only when it is named to it.
_KEPT = (
    *("index", "index-url", "extra-index-url", "no-index", "find-links", "index-strategy", "keyring-provider"),
    *("allow-insecure-host", "native-tls", "system-certs", "offline", "exclude-newer", "prerelease", "resolution"),
    *("constraint-dependencies", "override-dependencies", "exclude-dependencies", "torch-backend"),
    "dependency-metadata",
)


def compile_with_sources(
    source: Path | str | None,
    settings: Settings,
    *,
    names: frozenset[str] = frozenset(),
    python: str,
    platform: str | None,
    arguments: tuple[str, ...] = (),
    preferred: str | None = None,
) -> Compiled:
    """Resolve as `compile_pylock` does, but let `names`, and what turns out like them, come as source archives.

    Nothing is built for it. Raises UvFailure when there is no solution all the same: the first, as that there are no
    wheels is what there is to say where there are no source archives either.
    """
    first: UvFailure | None = None
    while True:
        with _without_dependencies(settings, names) if names else nullcontext(settings) as told:
            allowed = tuple(word for name in sorted(names) for word in ("--no-binary", name))
            try:
                return compile_pylock(
                    source,
                    told,
                    python=python,
                    platform=platform,
                    arguments=(*arguments, *allowed),
                    preferred=preferred,
                )
            except UvFailure as failure:
                first = first or failure
                more = without_wheels(failure) - names
                if not more:
                    raise first from None
                names |= more


@contextmanager
def offering(settings: Settings, wheels: Mapping[LockedPackage, Path]) -> Iterator[tuple[Settings, tuple[str, ...]]]:
    """Give settings and arguments with which uv takes just these wheels (each with the file that holds it)."""
    if not wheels:
        yield settings, ()
        return
    with tempfile.TemporaryDirectory(prefix="reprobox-built-") as name:
        folder = Path(name)
        for package, path in wheels.items():
            (folder / package.file).symlink_to(path.absolute())
        pins = folder / "constraints.txt"
        pins.write_text("".join(f"{package.name}=={package.version}\n" for package in wheels), encoding="utf-8")
        links = settings.environment.get("UV_FIND_LINKS")
        environment = {
            **settings.environment,
            "UV_FIND_LINKS": f"{links},{folder.as_uri()}" if links else folder.as_uri(),
        }
        # To uv a flag replaces the variable, so that what the user restricts by it is named beside our own.
        restricting = [path for path in settings.environment.get("UV_CONSTRAINT", "").split(" ") if path]
        named = tuple(word for path in (*restricting, str(pins)) for word in ("--constraints", path))
        yield replace(settings, environment=environment), named


@contextmanager
def _without_dependencies(settings: Settings, names: frozenset[str]) -> Iterator[Settings]:
    """Give settings under which uv takes the packages of these names to depend on nothing."""
    merged: dict[str, Any] = {}
    for table in uv_tables(settings):
        own = table.get("pip")
        for key, value in {**table, **(own if isinstance(own, dict) else {})}.items():
            if key in _KEPT and isinstance(value, list) and isinstance(merged.get(key, []), list):
                merged[key] = [*merged.get(key, []), *(_anchored(item, settings.folder, key) for item in value)]
            elif key in _KEPT:
                merged.setdefault(key, _anchored(value, settings.folder, key))
    told = merged.setdefault("dependency-metadata", [])
    # What the user says of a package himself is nearer to the truth.
    known = {entry.get("name") for entry in told if isinstance(entry, dict)}
    told += [{"name": name, "requires-dist": []} for name in sorted(names - known)]
    with tempfile.TemporaryDirectory(prefix="reprobox-uv-") as folder:
        path = Path(folder) / "uv.toml"
        path.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in merged.items()), encoding="utf-8")
        environment = {name: value for name, value in settings.environment.items() if name != "UV_NO_CONFIG"}
        yield replace(settings, environment={**environment, "UV_CONFIG_FILE": str(path)})


def _anchored(value: Any, folder: Path, key: str) -> Any:
    """Make a path among the addresses absolute: the file that names it will lie elsewhere."""
    if key == "index" and isinstance(value, dict) and "url" in value:
        return {**value, "url": _anchored(value["url"], folder, "index-url")}
    places = key in ("find-links", "index-url", "extra-index-url")
    return str((folder / value).absolute()) if places and isinstance(value, str) and "://" not in value else value


def _toml(value: Any) -> str:
    """Write a value that was read from a TOML file."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_toml(key)} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    # Text, numbers, true and false are written alike in both; dates stand in uv's settings as text.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
