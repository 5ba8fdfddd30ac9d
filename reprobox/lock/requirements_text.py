"""The grammar of requirements.txt: logical lines, options, hashes.

Source: pip's documentation, "Requirements File Format".
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

from reprobox.errors import SpecError
from reprobox.lock.addresses import scrub

_COMMENT = re.compile(r"(^|\s+)#.*$")
_VCS = re.compile(r"(^|@\s*)(git|hg|svn|bzr)(\+|://|@)", re.IGNORECASE)
_SCHEME = re.compile(r"(^|@\s*)([a-z][a-z0-9.+-]*):/", re.IGNORECASE)
_ARCHIVE = re.compile(r"\.(whl|zip|tar(\.\w+)?|tgz)$", re.IGNORECASE)

# Options that take a value, by every spelling that pip accepts, and those that do not.
_WITH_VALUE = {
    "-r": "requirement",
    "--requirement": "requirement",
    "-c": "constraint",
    "--constraint": "constraint",
    "-e": "editable",
    "--editable": "editable",
    "-i": "index_url",
    "--index-url": "index_url",
    "--pypi-url": "index_url",
    "--extra-index-url": "extra_index_urls",
    "-f": "find_links",
    "--find-links": "find_links",
    "--trusted-host": "trusted_hosts",
    "--no-binary": "ignored",
    "--only-binary": "ignored",
    "--use-feature": "ignored",
    "--hash": "hash",
    "--config-settings": "ignored",
    "--config-setting": "ignored",
    "--global-option": "ignored",
}
_WITHOUT_VALUE = {
    "--no-index": "no_index",
    "--pre": "pre",
    "--require-hashes": "ignored",
    "--prefer-binary": "ignored",
}


@dataclass(frozen=True, kw_only=True)
class IndexOptions:
    """Where to look for packages, as pip names it; used for requirements files and for pip's configuration alike."""

    index_url: str | None = None
    extra_index_urls: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    no_index: bool = False
    trusted_hosts: tuple[str, ...] = ()
    pre: bool = False

    @property
    def text(self) -> str:
        """These options as lines of a requirements file."""
        lines = [f"--index-url {self.index_url}"] if self.index_url else []
        lines += [f"--extra-index-url {url}" for url in self.extra_index_urls]
        lines += [f"--find-links {link}" for link in self.find_links]
        lines += ["--no-index"] if self.no_index else []
        return "".join(f"{line}\n" for line in lines)

    def merged(self, later: IndexOptions) -> IndexOptions:
        """Add `later` to these: lists grow, a later index replaces an earlier one."""
        return IndexOptions(
            index_url=later.index_url or self.index_url,
            extra_index_urls=self.extra_index_urls + later.extra_index_urls,
            find_links=self.find_links + later.find_links,
            no_index=self.no_index or later.no_index,
            trusted_hosts=self.trusted_hosts + later.trusted_hosts,
            pre=self.pre or later.pre,
        )


@dataclass(frozen=True, kw_only=True)
class Line:
    """One logical line: `where` it starts, its text, and what it says. `includes` holds (path, is a constraint)."""

    where: str
    text: str
    requirement: str | None = None
    hashes: tuple[str, ...] = ()
    editable: str | None = None
    includes: tuple[tuple[str, bool], ...] = ()
    options: IndexOptions = field(default_factory=IndexOptions)


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield (number of the first physical line, text) with continuations joined and comments removed; no empty ones."""
    pending: list[str] = []
    start = 0
    for number, physical in enumerate(text.splitlines(), start=1):
        start = start if pending else number
        comment = physical.lstrip().startswith("#")
        # A comment line ends a continuation, as in pip; the blank keeps it apart from what it is joined to.
        pending.append(f" {physical}" if comment else physical.removesuffix("\\"))
        if physical.endswith("\\") and not comment:
            continue
        joined = _COMMENT.sub("", "".join(pending)).strip()
        pending = []
        if joined:
            yield start, joined
    joined = _COMMENT.sub("", "".join(pending)).strip()
    if joined:
        yield start, joined


def parse_lines(text: str, shown: str) -> Iterator[Line]:
    """Parse the text of the file shown as `shown`. Raises SpecError, with the line, for an option that is not known."""
    for number, line in logical_lines(text):
        where = f"{shown}, line {number}"
        requirement, options = _split(line)
        values = _options(options, where)
        yield Line(
            where=where,
            text=line,
            requirement=requirement or None,
            hashes=tuple(values.get("hash", ())),
            editable=next(iter(values.get("editable", ())), None),
            includes=tuple(
                [(path, False) for path in values.get("requirement", ())]
                + [(path, True) for path in values.get("constraint", ())]
            ),
            options=IndexOptions(
                index_url=next(iter(values.get("index_url", ())), None),
                extra_index_urls=tuple(values.get("extra_index_urls", ())),
                find_links=tuple(values.get("find_links", ())),
                no_index="no_index" in values,
                trusted_hosts=tuple(values.get("trusted_hosts", ())),
                pre="pre" in values,
            ),
        )


def _split(line: str) -> tuple[str, str]:
    """Split a line into the requirement and the options behind it; a marker may hold anything but ` -`."""
    match = re.search(r"(^|\s)--?[a-zA-Z]", line)
    return (line, "") if match is None else (line[: match.start()].strip(), line[match.start() :].strip())


def _options(text: str, where: str) -> dict[str, list[str]]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise SpecError(f"{where}: the options cannot be read: {error}", details=(f"found: {scrub(text)}",)) from error
    values: dict[str, list[str]] = {}
    while words:
        word = words.pop(0)
        name, has_value, value = word.partition("=")
        if name in _WITHOUT_VALUE and not has_value:
            values.setdefault(_WITHOUT_VALUE[name], [])
            continue
        if not name.startswith("--") and len(name) > 2 and name[:2] in _WITH_VALUE:
            name, has_value, value = word[:2], "=", word[2:].removeprefix("=")  # the joined form, `-rbase.txt`
        if name not in _WITH_VALUE:
            raise SpecError(
                f"{where}: unknown option: {scrub(word)}",
                details=(f"known: {', '.join(sorted({*_WITH_VALUE, *_WITHOUT_VALUE}))}",),
            )
        if not has_value:
            if not words:
                raise SpecError(f"{where}: {name} needs a value")
            value = words.pop(0)
        values.setdefault(_WITH_VALUE[name], []).append(value)
    return values


def classify_unlockable(text: str) -> str | None:
    """Say what kind of entry `text` is when it names a place and not a package of an index, else None."""
    if _VCS.search(text):
        return "a version-control address"
    scheme = _SCHEME.search(text)
    if scheme is not None:
        return "a local path" if scheme[2].lower() == "file" else "a direct address"
    name = text.partition(";")[0].strip()
    if name.startswith((".", "/", "~")) or _ARCHIVE.search(name) or ("/" in name and "@" not in name):
        return "a local path"
    return None
