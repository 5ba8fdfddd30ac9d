"""What manifests and receipts have in common: a schema version, a digest over the content, and distrust when read.

The first key of a document names its kind and schema version, the second is the digest: sha256 over the canonical JSON
(RFC 8785) of all other keys but `signatures`. So an edit shows, and one text names one run.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import reprobox
from reprobox.digests import canonical_digest
from reprobox.documents import MAX_INTEGER, MAX_KEY, Document, read_document, write_document
from reprobox.errors import ManifestError, NewerSchemaError
from reprobox.files import write_atomically
from reprobox.validation import Problem, Rules, Where, build, describe, printable, report, to_plain

T = TypeVar("T")

# Not part of the digest: the digest itself, and what is said about it.
UNDIGESTED = ("digest", "signatures")
# Free trees (`determinism`, `signatures`) end well before the 32 levels at which reading gives up.
MAX_FREE_DEPTH = 16
_CONTROL = re.compile("[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class Format(Generic[T]):
    """One kind of document. `model` is its dataclass: the first field is `marker`, the last one is never null.

    `what` names it in messages, `marker` is the key that names its kind, `schema` the only version it is written in,
    `header` the comment above it, `rules` and `problems` what its values must keep.
    """

    model: type[T]
    what: str
    marker: str
    schema: int
    header: str
    max_bytes: int
    rules: Rules
    problems: Callable[[T], Iterable[Problem]]

    def digest(self, instance: T) -> str:
        """Return `sha256:` over the content of a document (see the module)."""
        return document_digest(to_plain(instance))

    def dump(self, instance: T) -> bytes:
        """Return the document's text. Raises ManifestError when it would not be read again."""
        data = to_plain(instance)
        _, found = self._check(data)
        if found:
            raise report(
                found,
                source=f"the {self.what} to be written",
                subject=f"a {self.what}",
                place=lambda _path: f"the {self.what} to be written",
                error=ManifestError,
            )
        marker = {self.marker: data.pop(self.marker)}
        content = self.header.encode() + write_document({**marker, "digest": self.digest(instance), **data})
        # Its size and its number of entries are known only now.
        read_document(content, what=f"{self.what} to be written", max_bytes=self.max_bytes, error=ManifestError)
        return content

    def write(self, instance: T, path: Path) -> None:
        """Write the document; whoever reads `path` sees the old one or the new one, never half. Raises as `dump`."""
        write_atomically(path, self.dump(instance))

    def read(self, source: Path | bytes) -> T:
        """Read a document that anybody may have written.

        Raises ManifestError when it is missing, too large, not YAML, of another kind, truncated, invalid or edited
        since it was written; NewerSchemaError when a later reprobox wrote it.
        """
        document = read_document(source, what=self.what, max_bytes=self.max_bytes, error=ManifestError)
        data, name = document.data, document.source
        if self.marker not in data:
            raise self._other_kind(document)
        if self._cut_off(data):
            raise ManifestError(
                f"{name} is truncated: it ends after {printable(list(data)[-1])}",
                details=(f"expected a last entry {self._fields()[-1]}",),
                hint=f"get the {self.what} again from where it came",
            )
        self._check_schema(document)
        body = {key: value for key, value in data.items() if key != "digest"}
        recorded, actual = data.get("digest"), document_digest(body)
        instance, found = self._check(body)
        if instance is None or found:
            edited = f"its digest does not hold either: it was edited after reprobox wrote it, or {name} is damaged"
            raise report(
                found,
                source=name,
                subject=f"a {self.what} of schema {self.schema}",
                place=document.place,
                error=ManifestError,
                hint=None if recorded == actual else edited,
            )
        if recorded != actual:
            raise ManifestError(
                f"{name} was edited after reprobox wrote it",
                details=(f"its digest line says  {describe(recorded)}", f"its content is        {actual}"),
                hint=f"get the {self.what} again from where it came",
            )
        return instance

    def _check(self, data: dict[str, Any]) -> tuple[T | None, list[Problem]]:
        found = list(_unfit(data, (), 0))
        if found:
            return None, found
        instance, found = build(self.model, data, self.rules)
        if instance is not None:
            found = list(self.problems(instance))
        return instance, found

    def _fields(self) -> list[str]:
        names = [field.name for field in dataclasses.fields(self.model)]  # type: ignore[arg-type]
        return [self.marker, "digest", *names[1:]]

    def _cut_off(self, data: Mapping[str, Any]) -> bool:
        """Say whether the document stops before its end: it has the first keys of this schema and none of the rest."""
        version = data[self.marker]
        if version is not None and (version is True or version != self.schema):
            return False
        fields = self._fields()
        missing = [name for name in fields if name not in data]
        if not missing:
            return data[fields[-1]] is None
        return missing == fields[-len(missing) :]

    def _other_kind(self, document: Document) -> ManifestError:
        kinds = [key for key in document.data if re.fullmatch(r"reprobox_[a-z]+", key)]
        if kinds:
            found = kinds[0].removeprefix("reprobox_")
            return ManifestError(f"{document.source} is a reprobox {found}, not a {self.what}")
        return ManifestError(
            f"{document.source} is YAML, but not a {self.what} of reprobox",
            details=(f"expected the key {self.marker}",),
        )

    def _check_schema(self, document: Document) -> None:
        version = document.data[self.marker]
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise ManifestError(
                f"{document.place((self.marker,))}: no reprobox ever wrote schema {describe(version)}",
                details=(f"expected {self.schema}",),
            )
        if version <= self.schema:
            return
        writer = document.data.get("reprobox")
        known = isinstance(writer, str) and re.fullmatch(r"[0-9][0-9A-Za-z.+!-]{0,63}", writer)
        raise NewerSchemaError(
            f"{document.source} has schema {version}, written by reprobox {writer if known else 'of a later version'}",
            details=(f"this is reprobox {reprobox.__version__}, which reads a {self.what} of schema {self.schema}",),
            hint=f"pip install 'reprobox>={writer}'" if known else "pip install --upgrade reprobox",
        )


def document_digest(data: Mapping[str, Any]) -> str:
    """Return the digest of plain data as canonical JSON, without the keys that stand outside the digest."""
    return canonical_digest({key: value for key, value in data.items() if key not in UNDIGESTED})


def _unfit(value: Any, path: Where, depth: int) -> Iterator[Problem]:
    """Find what no document may hold, wherever it stands: floats, which parsers round, and control characters, by
    which a hostile manifest could write on a reader's terminal.
    """
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        if match := _CONTROL.search(value):
            yield Problem(path=path, text=f"holds the control character {printable(match[0])}")
    elif isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            yield Problem(path=path, text="is a number of over 20 digits")
    elif depth > MAX_FREE_DEPTH:
        yield Problem(path=path, text=f"is nested deeper than {MAX_FREE_DEPTH} levels")
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or len(key) > MAX_KEY or _CONTROL.search(key):
                yield Problem(path=path, text=f"holds a key that is no plain text: {printable(str(key))}")
            else:
                yield from _unfit(item, (*path, key), depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unfit(item, (*path, index), depth + 1)
    else:
        yield Problem(path=path, text=f"expected text, a whole number, true, false or nothing, found {value!r}")
