"""pip's configuration, read on purpose: uv does not read it, but most users have their indexes only there.

Source: pip's documentation, "Configuration": which files, in which order, and that a later value replaces an earlier.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from reprobox.errors import UsageError
from reprobox.lock.requirements_text import IndexOptions

# Sections that apply when packages are installed; the later one wins.
_SECTIONS = ("global", "install")
_TRUE = ("y", "yes", "t", "true", "on", "1")


@dataclass(frozen=True, kw_only=True)
class PipSettings:
    """What pip would use: `indexes`, `constraints` (files), `cert` (file of CA certificates) and `proxy` (address)."""

    indexes: IndexOptions = field(default_factory=IndexOptions)
    constraints: tuple[str, ...] = ()
    cert: str | None = None
    proxy: str | None = None


def configuration_files(environment: Mapping[str, str]) -> list[Path]:
    """Return the files that pip would read, the weakest first, whether they exist or not."""
    chosen = environment.get("PIP_CONFIG_FILE")
    if chosen == os.devnull:
        return []
    home = Path(environment.get("HOME") or Path.home())
    shared = (environment.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep)
    files = [Path(folder) / "pip" / "pip.conf" for folder in shared]
    files.append(Path("/etc/pip.conf"))
    # A configuration file that is named and exists replaces the user's own, not those of the machine.
    if not chosen or not Path(chosen).exists():
        files.append(home / ".pip" / "pip.conf")
        files.append(Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf")
    if environment.get("VIRTUAL_ENV"):
        files.append(Path(environment["VIRTUAL_ENV"]) / "pip.conf")
    if chosen:
        files.append(Path(chosen))
    return files


def read_pip_settings(environment: Mapping[str, str]) -> PipSettings:
    """Read pip's settings as pip would find them in `environment`.

    Raises UsageError for a configuration file that pip could not read either.
    """
    by_section: dict[str, dict[str, str]] = {section: {} for section in _SECTIONS}
    for path in configuration_files(environment):
        for section, values in _read(path).items():
            by_section[section].update(values)
    merged: dict[str, str] = {}
    for section in _SECTIONS:
        merged.update(by_section[section])
    for name, value in environment.items():
        if name.startswith("PIP_") and name != "PIP_CONFIG_FILE" and value:
            merged[_key(name.removeprefix("PIP_"))] = value
    return PipSettings(
        indexes=IndexOptions(
            index_url=merged.get("index-url") or None,
            extra_index_urls=tuple(merged.get("extra-index-url", "").split()),
            find_links=tuple(merged.get("find-links", "").split()),
            no_index=_flag(merged.get("no-index")),
            trusted_hosts=tuple(merged.get("trusted-host", "").split()),
            pre=_flag(merged.get("pre")),
        ),
        constraints=tuple(merged.get("constraint", "").split()),
        cert=merged.get("cert") or None,
        proxy=merged.get("proxy") or None,
    )


def _read(path: Path) -> dict[str, dict[str, str]]:
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(path.read_text(encoding="utf-8"), source=path.name)
    except (FileNotFoundError, NotADirectoryError, PermissionError, IsADirectoryError):
        return {}
    except (configparser.Error, UnicodeDecodeError) as error:
        raise UsageError(
            f"pip's configuration cannot be read: {path}",
            details=(type(error).__name__,),
            hint="Mend the file; `pip config debug` shows which files pip reads.",
        ) from error
    return {
        section: {_key(name): value for name, value in parser.items(section)}
        for section in _SECTIONS
        if parser.has_section(section)
    }


def _key(name: str) -> str:
    return name.lower().replace("_", "-").removeprefix("--")


def _flag(value: str | None) -> bool:
    return value is not None and value.strip().lower() in _TRUE
