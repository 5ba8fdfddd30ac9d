"""Strict YAML in and out: the one way in which reprobox reads and writes `reprobox.yaml`, manifests and receipts.

Reading takes a small, plain part of YAML: mappings with text keys, lists, and scalars that are text, whole numbers,
true/false or null. Whatever YAML 1.1 would bend (`no`, `3.10`, `1e-5`, `0x1f`, `nan`, dates) stays the text that was
typed, and what makes YAML unsafe or ambiguous (duplicate keys, anchors, aliases, tags, merge keys, several documents,
deep nesting, size) is refused by line. Scalars follow the core schema of YAML 1.2.2, section 10.3, without its floats.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from reprobox.errors import ReproboxError
from reprobox.validation import Where, printable

MAX_DEPTH = 32
# A million small nodes would keep a reader busy for seconds; a real manifest has some thousands.
MAX_NODES = 500_000
# As long as the name of a metric may be.
MAX_KEY = 200
# The distance of two float64 in units in the last place takes 20 digits; longer numbers stay text.
MAX_INTEGER = 10**20 - 1

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,19}")
_WORDS: Mapping[str, bool | None] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("null", "Null", "NULL", "~", ""), None),
}

_LINE_WIDTH = 120
# A record of a list (a wheel, an output) is a table row: it reads and diffs best on one line, even a long one.
_ROW_WIDTH = 220
_PLAIN = re.compile(r"(?:-{0,2}[A-Za-z_/]|\.{1,2}/)[A-Za-z0-9_./+@%=~()-]*(?: [A-Za-z0-9_./+@%=~()-]+)*")
# What YAML 1.1 or 1.2 reads as a boolean or as null; https://yaml.org/type/bool.html
_BENT_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
_HEX = re.compile(r"[0-9A-Fa-f]{8,}")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")


@dataclass(frozen=True, kw_only=True)
class Document:
    """A document as read: `data` holds only dict, list, str, int, bool and None; `source` names it in messages."""

    data: dict[str, Any]
    source: str
    lines: Mapping[Where, int] = field(repr=False, default_factory=dict)

    def line_of(self, path: Where) -> int | None:
        """Return the line (from 1) of the entry at `path`, else of the nearest entry around it; None for the whole."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path[:-1]
        return None

    def place(self, path: Where) -> str:
        """Return `source:line` of the entry at `path` for a message."""
        line = self.line_of(path)
        return self.source if line is None else f"{self.source}:{line}"


def shown(path: Path) -> str:
    """Return `path` as a message should name it: relative when it lies under the current folder."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def read_document(source: Path | bytes, *, what: str, max_bytes: int, error: type[ReproboxError]) -> Document:
    """Read one strict YAML document of at most `max_bytes` bytes from a file or from bytes.

    `what` names the kind of document in messages (`manifest`). Raises `error` saying where and why when the file is
    missing, too large, not UTF-8, not YAML, or uses a part of YAML that is refused (see the module).
    """
    name = what if isinstance(source, bytes) else shown(source)
    content = source if isinstance(source, bytes) else _read_file(source, name, what, max_bytes, error)
    if len(content) > max_bytes:
        raise _too_large(name, what, len(content), max_bytes, error)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = content.count(b"\n", 0, problem.start) + 1
        if problem.end == len(content) and "end of data" in problem.reason:
            raise error(f"{name}:{line}: the file is truncated: it ends in the middle of a character") from None
        raise error(
            f"{name}:{line}: this is not UTF-8 text, so not a {what}",
            details=(f"byte {problem.start} is 0x{content[problem.start]:02x}",),
        ) from None
    return _parse(text, name, what, error)


def _read_file(path: Path, name: str, what: str, max_bytes: int, error: type[ReproboxError]) -> bytes:
    try:
        # The size is looked at first, so that a huge file costs nothing; the read is bounded too, because what stands
        # at the path may grow or be a pipe without a size.
        status = path.stat()
        if status.st_size > max_bytes and not stat.S_ISDIR(status.st_mode):
            raise _too_large(name, what, status.st_size, max_bytes, error)
        with path.open("rb") as handle:
            return handle.read(max_bytes + 1)
    except FileNotFoundError:
        raise error(f"there is no {what} at {name}") from None
    except IsADirectoryError:
        raise error(f"{name} is a folder, not a {what}") from None
    except OSError as problem:
        raise error(f"the {what} {name} cannot be read: {problem.strerror}") from None


def _too_large(name: str, what: str, size: int, limit: int, error: type[ReproboxError]) -> ReproboxError:
    return error(
        f"{name} is too large for a {what}: {size / 1e6:.1f} MB", details=(f"expected at most {limit / 1e6:.1f} MB",)
    )


_TOO_DEEP = f"nesting deeper than {MAX_DEPTH} levels is refused"
# libyaml reads up to 1024 characters of a line ahead, to find out whether a bracket begins a key. From 0.2.6 on it
# stops by itself at a thousand levels, which it may find there before the builder has seen the first of these brackets.
_STOPPED_BY_DEPTH = re.compile(r"nest(?:ing|ed)|depth|too deep", re.IGNORECASE)
_UNFINISHED = re.compile(r"(?:\\(?:x[0-9A-Fa-f]?|u[0-9A-Fa-f]{0,3}|U[0-9A-Fa-f]{0,7})?|[\s,\[]-)$")


class _Refused(Exception):
    """Something at `line` that YAML allows and reprobox does not."""

    def __init__(self, line: int, text: str, hint: str | None = None) -> None:
        super().__init__(text)
        self.line, self.text, self.hint = line, text, hint


def _parse(text: str, name: str, what: str, error: type[ReproboxError]) -> Document:
    import yaml  # not at the top: `reprobox --help` needs no YAML

    # libyaml reads long quoted text some fifty times faster than the pure Python parser, which is the fallback.
    loader: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
    builder = _Builder(yaml)
    try:
        for event in yaml.parse(text, Loader=loader):
            builder.take(event)
    except _Refused as refused:
        raise error(f"{name}:{refused.line}: {refused.text}", hint=refused.hint) from None
    except yaml.MarkedYAMLError as problem:
        raise _malformed(problem, text, name, error) from None
    except yaml.YAMLError as problem:
        # A character that YAML forbids; libyaml counts its position in bytes.
        line = text.encode()[: getattr(problem, "position", 0)].count(b"\n") + 1
        raise error(f"{name}:{line}: this is not YAML: it holds a control character") from None
    if not builder.found:
        raise error(f"{name} is empty", details=(f"expected the keys of a {what}",))
    if not isinstance(builder.root, dict):
        raise error(f"{name} is not a {what}: it holds no keys", details=("expected `key: value` lines",))
    return Document(data=builder.root, source=name, lines=builder.lines)


def _malformed(problem: Any, text: str, name: str, error: type[ReproboxError]) -> ReproboxError:
    mark, context = problem.problem_mark, problem.context_mark
    # The mark may stand behind the last line break, on a line that nobody sees.
    line = min(mark.line, text.rstrip().count("\n")) + 1 if mark else 1
    if _STOPPED_BY_DEPTH.search(problem.problem or ""):
        return error(f"{name}:{line}: {_TOO_DEEP}")
    begun = f"begun on line {context.line + 1}" if context else ""
    # Where the file ends inside an escape (`\u00`) or after the dash that begins a word, the mark stands before it.
    end = len(_UNFINISHED.sub("", text.rstrip()))
    if mark and mark.index >= end > 0:
        return error(
            f"{name}:{line}: the file ends in the middle of an entry {begun}".rstrip(),
            details=("either it is truncated, or a quote or bracket is never closed",),
        )
    details = tuple(filter(None, (" ".join(filter(None, (problem.context, begun))),)))
    return error(f"{name}:{line}: this is not YAML: {problem.problem}", details=details)


class _Open:
    """A collection under construction; `key` is the mapping's key that waits for its value."""

    __slots__ = ("key", "path", "value")

    def __init__(self, value: dict[str, Any] | list[Any], path: Where) -> None:
        self.value, self.path = value, path
        self.key: str | None = None


class _Builder:
    """Builds plain data out of YAML events, one at a time, so that every limit holds before memory is spent."""

    def __init__(self, yaml: Any) -> None:
        self.root: Any = None
        self.found = False
        self.lines: dict[Where, int] = {}
        self._open: list[_Open] = []
        self._nodes = 0
        self._handlers: dict[type, Callable[[Any, int], None]] = {
            yaml.ScalarEvent: self._scalar,
            yaml.MappingStartEvent: lambda event, line: self._start({}, event, line),
            yaml.SequenceStartEvent: lambda event, line: self._start([], event, line),
            yaml.MappingEndEvent: lambda _event, _line: self._end(),
            yaml.SequenceEndEvent: lambda _event, _line: self._end(),
            yaml.AliasEvent: self._alias,
            yaml.DocumentStartEvent: self._document,
        }

    def take(self, event: Any) -> None:
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event, event.start_mark.line + 1)

    def _alias(self, event: Any, line: int) -> NoReturn:
        raise _Refused(line, f"the alias *{event.anchor} is refused", "write the value out where it is used")

    def _document(self, _event: Any, line: int) -> None:
        if self.found:
            raise _Refused(line, "a second document begins here (---); a file holds one")

    def _check(self, event: Any, line: int) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _Refused(line, f"more than {MAX_NODES} entries are refused")
        if event.anchor is not None:
            raise _Refused(line, f"the anchor &{event.anchor} is refused", "write the value out where it is used")
        if event.tag is not None:
            raise _Refused(line, f"the tag {printable(event.tag)} is refused", "leave it out")

    def _scalar(self, event: Any, line: int) -> None:
        self._check(event, line)
        plain = event.implicit[0]
        value = _resolve(event.value) if plain else event.value
        top = self._open[-1] if self._open else None
        if top is not None and isinstance(top.value, dict) and top.key is None:
            if not isinstance(value, str):
                raise _Refused(line, f"the key {event.value or 'null'} is not text", "put it in quotes")
            self._key(top, value, line, merge=plain and value == "<<")
        else:
            self._put(value, line)

    def _key(self, top: _Open, key: str, line: int, *, merge: bool) -> None:
        if merge:
            raise _Refused(line, "the merge key << is refused", "write the keys out where they are used")
        path = (*top.path, key)
        if path in self.lines:
            raise _Refused(
                line, f"the key {key} stands here for the second time; the first is on line {self.lines[path]}"
            )
        self.lines[path] = line
        top.key = key

    def _put(self, value: Any, line: int) -> Where:
        self.found = True
        if not self._open:
            self.root = value
            return ()
        top = self._open[-1]
        if isinstance(top.value, list):
            path = (*top.path, len(top.value))
            self.lines[path] = line
            top.value.append(value)
            return path
        if top.key is None:
            raise _Refused(line, "a list or mapping as a key is refused; keys are text")
        path = (*top.path, top.key)
        top.value[top.key] = value
        top.key = None
        return path

    def _start(self, value: dict[str, Any] | list[Any], event: Any, line: int) -> None:
        self._check(event, line)
        if len(self._open) >= MAX_DEPTH:
            raise _Refused(line, _TOO_DEEP)
        self._open.append(_Open(value, self._put(value, line)))

    def _end(self) -> None:
        self._open.pop()


def _resolve(text: str) -> str | int | bool | None:
    """Say what a plain scalar means (see the module)."""
    if text in _WORDS:
        return _WORDS[text]
    return int(text) if _INTEGER.fullmatch(text) else text


def write_document(data: Mapping[str, Any]) -> bytes:
    """Write plain data as YAML: keys in the order given, the same bytes for the same data.

    Text that any YAML parser could take for something else is quoted; short lists and records stand on one line; long
    base64 text is folded. Raises TypeError for what a document cannot hold (floats among them: YAML parsers differ on
    them), ValueError for keys over 128 characters, integers over 20 digits and nesting over 32 levels.
    """
    lines: list[str] = []
    previous_long = False
    for key, value in data.items():
        entry = list(_entry(key, value, 0, 1))
        # Sections of several lines stand apart from their neighbours.
        if lines and (previous_long or len(entry) > 1):
            lines.append("")
        lines.extend(entry)
        previous_long = len(entry) > 1
    return ("\n".join(lines or ["{}"]) + "\n").encode()


def _entry(key: object, value: Any, indent: int, depth: int) -> Iterator[str]:
    prefix = f"{' ' * indent}{_key_text(key)}:"
    one_line = _one_line(value, indent, records=indent > 0)
    if one_line is not None and (len(prefix) + len(one_line) < _LINE_WIDTH or _is_atomic(value)):
        yield f"{prefix} {one_line}"
        return
    yield prefix
    yield from _block(value, indent + 2, depth + 1)


def _block(value: Mapping[str, Any] | Sequence[Any], indent: int, depth: int) -> Iterator[str]:
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _entry(key, item, indent, depth)
        return
    for item in value:
        one_line = _one_line(item, indent, records=True)
        if one_line is not None and (indent + len(one_line) < _ROW_WIDTH or _is_atomic(item)):
            yield f"{' ' * indent}- {one_line}"
            continue
        nested = _block(item, indent + 2, depth + 1)
        yield f"{' ' * indent}- {next(nested)[indent + 2 :]}"
        yield from nested


def _is_atomic(value: Any) -> bool:
    """Whether `value` has no block form: an empty list or mapping is `[]` or `{}` however long the line gets."""
    return _is_scalar(value) or not value


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, (str, int))


def _one_line(value: Any, indent: int, *, records: bool) -> str | None:
    """Return `value` in flow style, or None when it is too deep for that; a scalar is given whole, however long."""
    if _is_scalar(value):
        return _scalar_text(value, indent + 2)
    if isinstance(value, (list, tuple)):
        if not all(_is_scalar(item) for item in value):
            return None
        return "[" + ", ".join(_scalar_text(item) for item in value) + "]"
    if isinstance(value, Mapping):
        if not value:
            return "{}"
        if not records or not all(_is_scalar(item) or isinstance(item, (list, tuple)) for item in value.values()):
            return None
        texts = [(_key_text(key), _one_line(item, indent, records=False)) for key, item in value.items()]
        if any(text is None or "\n" in text for _, text in texts):
            return None
        return "{" + ", ".join(f"{key}: {text}" for key, text in texts) + "}"
    raise TypeError(f"a document cannot hold {type(value).__name__} {value!r}")


def _key_text(key: object) -> str:
    if not isinstance(key, str):
        raise TypeError(f"a key must be text, not {key!r}")
    if len(key) > MAX_KEY:
        raise ValueError(f"a key of over {MAX_KEY} characters: {key[:40]}...")
    return _scalar_text(key)


def _scalar_text(value: str | int | None, fold_indent: int | None = None) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise ValueError(f"an integer of over 20 digits: {value}")
        return str(value)
    if fold_indent is not None and len(value) > _LINE_WIDTH and _BASE64.fullmatch(value):
        # A backslash at the end of a line joins double-quoted text without a blank (YAML 1.2.2, section 7.3.1).
        width = _LINE_WIDTH - fold_indent - 2
        joint = "\\\n" + " " * fold_indent
        return f'"{joint}{joint.join(value[at : at + width] for at in range(0, len(value), width))}"'
    return value if _reads_as_itself(value) else _quoted(value)


def _reads_as_itself(text: str) -> bool:
    if not _PLAIN.fullmatch(text) or text.lower() in _BENT_WORDS or _HEX.fullmatch(text):
        return False
    try:
        float(text)  # nan, inf and infinity, in any case and with any sign
    except ValueError:
        return True
    return False


def _quoted(text: str) -> str:
    text.encode()  # a lone surrogate has no UTF-8 and no YAML form: UnicodeEncodeError is a ValueError
    quoted = json.dumps(text, ensure_ascii=False)
    if quoted.isprintable():
        return quoted
    # JSON leaves DEL, C1, line separators and the like as they are; YAML wants them escaped.
    return "".join(
        c if c.isprintable() else f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}" for c in quoted
    )
