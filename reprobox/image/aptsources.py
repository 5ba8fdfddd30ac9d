"""Where a suite of Debian's archive is had from: this machine's own apt sources, or a snapshot of the archive.

A site's mirror is used where it is one of Debian's. Third-party sources are left out, because they could replace
Debian's packages and the base would no longer be the same elsewhere: only sources signed by Debian's archive keys
count. Addresses go to mmdebstrap and nowhere else. Source: sources.list(5).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_KEYRING = re.compile(r"/usr/share/keyrings/debian-archive-[a-z0-9-]*keyring\.(gpg|pgp|asc)$")
_POCKETS = ("", "-updates", "-security")
_ROLLING = ("sid", "unstable", "experimental")


@dataclass(frozen=True, kw_only=True)
class AptSource:
    """One archive address with its suites and components; `signed_by` is a keyring's path, or empty."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str


# Debian's own archive of its archive. Plain HTTP as for every Debian mirror: what counts is the signature.
SNAPSHOT_ARCHIVE = "http://snapshot.debian.org/archive"
SNAPSHOT_VARIABLE = "REPROBOX_DEBIAN_SNAPSHOT"
_DEBIAN_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def snapshot_archive() -> str:
    """Return where snapshots of Debian's archive are had from: a mirror of this site's own, or Debian's."""
    return (os.environ.get(SNAPSHOT_VARIABLE) or SNAPSHOT_ARCHIVE).rstrip("/")


def snapshot_sources(suite: str, moment: str, keys: Path = _DEBIAN_KEYS) -> tuple[str, ...]:
    """Return one-line sources for `suite`, its updates and its security pocket as they were at `moment`.

    `moment` is UTC in the form `2026-11-01T00:00:00Z`. A release file says until when it is valid, which of an old one
    is over by nature. Source: https://snapshot.debian.org/, usage.
    """
    stamp = re.sub(r"[-:]", "", moment)
    options = f"[{f'signed-by={keys} ' if keys.exists() else ''}check-valid-until=no]"
    archives = {"": "debian", "-updates": "debian", "-security": "debian-security"}
    pockets = _POCKETS[:1] if suite in _ROLLING else _POCKETS
    return tuple(
        f"deb {options} {snapshot_archive()}/{archives[pocket]}/{stamp} {suite}{pocket} main" for pocket in pockets
    )


def debian_sources(suite: str, apt: Path) -> tuple[str, ...]:
    """Return one-line sources for `suite`, its updates and its security pocket, as found under `apt` (`/etc/apt`).

    Nothing when this machine has none for the suite itself; mmdebstrap then takes Debian's public archive.
    """
    wanted = [suite + pocket for pocket in _POCKETS]
    lines: list[str] = []
    main = False
    for source in _read(apt):
        if "main" not in source.components or not _KEYRING.match(source.signed_by):
            continue
        for name in source.suites:
            line = f"deb [signed-by={source.signed_by}] {source.uri} {name} main"
            if name in wanted and line not in lines:
                lines.append(line)
                main = main or name == suite
    return tuple(lines) if main else ()


def _read(apt: Path) -> Iterator[AptSource]:
    folder = apt / "sources.list.d"
    for path in (apt / "sources.list", *sorted(folder.glob("*.list"))):
        for line in _text(path).splitlines():
            yield from _one_line(line)
    for path in sorted(folder.glob("*.sources")):
        for stanza in re.split(r"\n\s*\n", _text(path)):
            yield from _stanza(stanza)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _one_line(line: str) -> Iterator[AptSource]:
    match = re.match(
        r"deb\s+(?:\[(?P<options>[^]]*)\]\s*)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<rest>[^#]*)", line.strip()
    )
    if match is None:
        return
    options = dict(option.split("=", 1) for option in (match["options"] or "").split() if "=" in option)
    yield AptSource(
        uri=match["uri"],
        suites=(match["suite"],),
        components=tuple(match["rest"].split()),
        signed_by=options.get("signed-by", ""),
    )


def _stanza(text: str) -> Iterator[AptSource]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\n[ \t]+", " ", "\n".join(lines))
    fields = {
        key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in joined.splitlines())
    }
    if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false"):
        return
    for uri in fields.get("uris", "").split():
        yield AptSource(
            uri=uri,
            suites=tuple(fields.get("suites", "").split()),
            components=tuple(fields.get("components", "").split()),
            signed_by=fields.get("signed-by", ""),
        )
