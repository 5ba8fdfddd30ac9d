"""Files in which a program wrote its results: numbers out of JSON, YAML, CSV and lines of JSON.

The confined program wrote them, so nothing is trusted: they are opened without following a link, read within limits,
and whatever is wrong with one becomes a warning beside what can be read of it.

A number is called `FILE:KEY.KEY`, by the keys on the way to it. The items of a list, and the rows of a table, are
values of one name, in order; a row's `global_step`, `step` or `epoch` is their step, else their place from 0. In a list
within a list the place becomes part of the name, as a column's.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import itertools
import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from reprobox.runtime.metrics import fitted
from reprobox.spec import METRIC_FILES
from reprobox.validation import printable

Value: TypeAlias = tuple[int | None, float]

MAX_BYTES = 64_000_000
MAX_NAMES = 1000
MAX_VALUES = 1_000_000
MAX_DEPTH = 32
MAX_WARNINGS = 20
# Of a list, a map or a text; a small file could hold so many empty ones that they fill the memory.
MAX_NODES = 4_000_000
# YAML is read in Python, event by event.
MAX_YAML_NODES = 500_000
_LARGEST_STEP = 10**15
_STEPS = ("global_step", "step", "epoch")
_BYTE_ORDER_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_NUMBER = re.compile(r"[+-]?(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|nan|inf|infinity)", re.ASCII | re.I)
# YAML 1.2.2, section 10.3.2, with `1e-5`, which Python writes.
_YAML_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_WORDS = {**dict.fromkeys(("true", "True", "TRUE"), 1.0), **dict.fromkeys(("false", "False", "FALSE"), 0.0)}
_YAML_WORDS = {
    **_WORDS,
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **{sign + word: float(sign + "inf") for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF")},
}


_YAML_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("float", "int", "bool", "map", "seq")}
_TWICE = "a key stands twice in one map; its last value counts"


@dataclass(frozen=True, kw_only=True)
class MetricFile:
    """What was found in one file: each name with its values as (step, number), in the order of the file; and in
    `warnings`, as sentences, what could not be read.
    """

    path: str
    values: tuple[tuple[str, tuple[Value, ...]], ...] = ()
    warnings: tuple[str, ...] = ()


def read_metric_file(work: Path, path: str) -> MetricFile:
    """Read one file of metrics at `path` inside the folder `work` of a run; its ending says what it is.

    Never raises for anything that the program could have left there.
    """
    reading = _Reading(path)
    content = _content(work, path, reading)
    if content is not None:
        reading.take(_text(content, reading))
    return reading.found()


class _Reading:
    """The values of one file so far, and what was left out."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._values: dict[str, list[Value]] = {}
        self._count = 0
        self._warnings: dict[str, None] = {}

    def found(self) -> MetricFile:
        fit: dict[str, list[Value]] = {}
        for name, values in self._values.items():
            fit.setdefault(fitted(f"{self._path}:{name}" if name else self._path), []).extend(values)
        found = tuple((name, tuple(values)) for name, values in fit.items())
        return MetricFile(path=self._path, values=found, warnings=tuple(self._warnings))

    def warn(self, text: str) -> None:
        """Say once what is wrong, of the first things that are."""
        if len(self._warnings) < MAX_WARNINGS:
            self._warnings[f"{printable(self._path, 200)}: {text}"] = None

    def take(self, text: str) -> None:
        """Read the whole content."""
        ending = self._path.rpartition(".")[2]
        if ending not in METRIC_FILES:
            self.warn(f"its name ends in none of {', '.join(METRIC_FILES)}, so it is not read")
        elif not text or text.isspace():
            self.warn("it is empty")
        elif ending in ("csv", "tsv"):
            self._table(text, "\t" if ending == "tsv" else _delimiter(text))
        elif self._fits(text, ",[{"):
            if ending in ("yaml", "yml"):
                self._tree(_YamlTree(self.warn).of(text))
            elif ending == "json":
                self._tree(self._json(text))
            else:
                self._rows((self._json(line, at) for at, line in enumerate(_lines(text), 1) if line.strip()), "")
        if not self._values and not self._warnings:
            self.warn("it holds no number")

    def _fits(self, text: str, marks: str) -> bool:
        fits = sum(map(text.count, marks)) <= MAX_NODES
        if not fits:
            self.warn(f"it holds more than {MAX_NODES:,} entries, so it is not read")
        return fits

    def _tree(self, root: Any) -> None:
        if isinstance(root, list):
            self._rows(root, "")
        else:
            self._node(root, "", None, 0)

    def _node(self, node: Any, name: str, step: int | None, depth: int, leave: str | None = None) -> None:
        """Take in the numbers below a node. Inside a row `step` is that of the row; `leave` is the key that gave it."""
        if isinstance(node, (bool, int, float)):
            self._put(name, step, float(node))
        elif depth >= MAX_DEPTH:
            if isinstance(node, (dict, list)):
                self.warn(f"what is nested deeper than {MAX_DEPTH} levels is left out")
        elif isinstance(node, dict):
            for key, value in node.items():
                if key != leave:
                    self._node(value, f"{name}.{key}" if name else key, step, depth + 1)
        elif isinstance(node, list):
            if step is None:
                self._rows(node, name, depth + 1)
            else:
                for place, value in enumerate(node):
                    self._node(value, f"{name}.{place}" if name else str(place), step, depth + 1)

    def _rows(self, rows: Iterable[Any], name: str, depth: int = 0) -> None:
        for place, row in enumerate(rows):
            key, step = None, place
            if isinstance(row, dict):
                key, step = next(
                    ((key, whole) for key in _STEPS if (whole := _whole(row.get(key))) is not None), (None, place)
                )
            self._node(row, name, step, depth, key)

    def _put(self, name: str, step: int | None, number: float) -> None:
        values = self._values.get(name)
        if self._count >= MAX_VALUES:
            self.warn(f"it holds more than {MAX_VALUES:,} numbers; the others are left out")
        elif values is not None:
            self._count += 1
            values.append((step, number))
        elif len(self._values) >= MAX_NAMES:
            self.warn(f"it holds more than {MAX_NAMES:,} names of metrics; the others are left out")
        else:
            self._count += 1
            self._values[name] = [(step, number)]

    def _json(self, text: str, line: int | None = None) -> Any:
        """Return a JSON value, its numbers as floats; None where it is not JSON."""
        where = "" if line is None else f", line {line}"
        try:
            return json.loads(text, object_pairs_hook=self._unique, parse_int=self._number, parse_float=self._number)
        except json.JSONDecodeError as error:
            at = error.lineno if line is None else line
            self.warn(f"it is not JSON: line {at}, column {error.colno}: {error.msg}")
        except RecursionError:
            self.warn(f"it is nested too deeply to be read{where}")
        return None

    def _unique(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            self.warn(_TWICE)
        return found

    def _number(self, digits: str) -> float:
        return _float(digits, self.warn)

    def _table(self, text: str, delimiter: str) -> None:
        if not self._fits(text, delimiter):
            return
        rows = csv.reader(_lines(text), delimiter=delimiter, skipinitialspace=True)
        try:
            header = [cell.strip() for cell in next((row for row in rows if row), [])]
            body: Iterator[list[str]] = rows
            if all(map(_NUMBER.fullmatch, header)):  # as numpy.savetxt writes it: no names
                header, body = [str(place) for place in range(len(header))], itertools.chain([header], rows)
            self._rows(self._named(header, body), "")
        except csv.Error as error:
            self.warn(f"it is not a table: line {rows.line_num}: {error}")

    def _named(self, header: list[str], rows: Iterable[list[str]]) -> Iterator[dict[str, float]]:
        """Yield the numbers of each row by the name of their column; a column without a name numbers the rows."""
        columns: dict[str, int] = {}
        for place, name in enumerate(header):
            if name in columns:
                self.warn("two columns have the same name; the first counts")
            elif name and len(columns) <= MAX_NAMES:
                columns[name] = place
        for row in rows:
            if len(row) > len(header):
                self.warn("a row has more cells than there are columns; what is beyond them is left out")
            if row:
                cells = {name: self._cell(row[place].strip()) for name, place in columns.items() if place < len(row)}
                yield {name: number for name, number in cells.items() if number is not None}

    def _cell(self, text: str) -> float | None:
        return _float(text, self.warn) if _NUMBER.fullmatch(text) else _WORDS.get(text)


class _YamlTree:
    """Builds lists, maps and floats out of YAML events: nothing is constructed by tags, and nothing is repeated."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._root: Any = None
        self._open: list[_Open] = []

    def of(self, text: str) -> Any:
        """Return the root of the first document, None where it is not YAML."""
        import yaml  # not at the top: `reprobox --help` needs no YAML

        loader: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
        documents = 0
        try:
            for count, event in enumerate(yaml.parse(text, Loader=loader)):
                if count >= MAX_YAML_NODES:
                    self._warn(f"it holds more than {MAX_YAML_NODES:,} entries, so it is not read; JSON may hold more")
                    return None
                if isinstance(event, yaml.DocumentStartEvent):
                    documents += 1
                    if documents > 1:
                        self._warn("it holds more than one document; the first counts")
                        break
                elif isinstance(event, yaml.ScalarEvent):
                    self._scalar(event)
                elif isinstance(event, yaml.AliasEvent):
                    self._warn("an alias is left out")
                    self._put(None)
                elif isinstance(event, yaml.CollectionStartEvent):
                    self._begin(event, {} if isinstance(event, yaml.MappingStartEvent) else [])
                elif isinstance(event, yaml.CollectionEndEvent):
                    self._open.pop()
        except yaml.MarkedYAMLError as error:
            line = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
            self._warn(f"it is not YAML: {line}{printable(str(error.problem))}")
            return None
        except yaml.YAMLError:
            self._warn("it is not YAML: it holds a control character")
            return None
        return self._root

    def _scalar(self, event: Any) -> None:
        text: str = event.value
        value: float | None = None
        if event.implicit[0] or event.tag in _YAML_TAGS:
            if text in _YAML_WORDS:
                value = _YAML_WORDS[text]
            elif _YAML_NUMBER.fullmatch(text):
                value = _float(text, self._warn)
        self._put(value, text)

    def _begin(self, event: Any, collection: dict[str, Any] | list[Any]) -> None:
        if event.tag is not None and event.tag not in _YAML_TAGS:
            self._warn(f"what has the tag {printable(event.tag)} is left out")
            self._put(None)
        else:
            self._put(collection)
        self._open.append(_Open(collection))

    def _put(self, value: Any, key: str | None = None) -> None:
        """Add a node to the innermost open collection: as its next item, as a key, or as the value of the last key."""
        if not self._open:
            self._root = value
            return
        top = self._open[-1]
        if isinstance(top.collection, list):
            top.collection.append(value)
        elif not top.has_key:
            if key is None:
                self._warn("what has a list or a map as its key is left out")
            top.key, top.has_key = key, True
        else:
            if top.key is not None:
                if top.key in top.collection:
                    self._warn(_TWICE)
                top.collection[top.key] = value
            top.has_key = False


class _Open:
    """A collection under construction; a map's `key` waits for its value."""

    __slots__ = ("collection", "has_key", "key")

    def __init__(self, collection: dict[str, Any] | list[Any]) -> None:
        self.collection = collection
        self.key: str | None = None
        self.has_key = False


def _content(work: Path, path: str, reading: _Reading) -> bytes | None:
    """Return the bytes of a plain file inside `work`; None, and a warning, where there is none that can be trusted."""
    *folders, name = path.split("/")
    if not all(part not in ("", ".", "..") and "\0" not in part for part in (*folders, name)):
        reading.warn("it is no path inside the run's folder, so it is not read")
        return None
    # Folder by folder, so that no link on the way leads out of `work`; not blocking, as a pipe would never end.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with contextlib.ExitStack() as opened:
        try:
            at = os.open(work, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
            opened.callback(os.close, at)
            for folder in folders:
                at = os.open(folder, flags | os.O_DIRECTORY, dir_fd=at)
                opened.callback(os.close, at)
            handle = opened.enter_context(os.fdopen(os.open(name, flags, dir_fd=at), "rb"))
            if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
                reading.warn("it is not a plain file, so it is not read")
                return None
            content = handle.read(MAX_BYTES + 1)
        except FileNotFoundError:
            reading.warn("there is no such file after the run")
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                reading.warn("a link, or what is no folder, stands on the way to it, so it is not read")
            else:
                reading.warn(f"it cannot be read: {error.strerror}")
            return None
    if len(content) > MAX_BYTES:
        reading.warn(f"it is larger than {MAX_BYTES // 1_000_000} MB, so it is not read")
        return None
    return content


def _text(content: bytes, reading: _Reading) -> str:
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        reading.warn(f"it is not {encoding.removesuffix('-sig').upper()} text; what is not was replaced")
        return content.decode(encoding, errors="replace")


def _lines(text: str) -> Iterator[str]:
    """Yield the lines with their ends, one at a time: a list of all of them could be many times as large."""
    return (match[0] for match in re.finditer(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", text))


def _delimiter(text: str) -> str:
    header = next(iter(_lines(text.lstrip())), "")
    return max(",;\t", key=header.count)


def _whole(value: Any) -> int | None:
    """Return the whole number that a float is, as a step; None for anything else."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _LARGEST_STEP:
        return int(value)
    return None


def _float(text: str, warn: Callable[[str], None]) -> float:
    """Return the number that a text of digits means, and say so where a float64 does not hold it."""
    number = float(text)
    if math.isinf(number) and text[-1:].isdigit():
        warn("a number is too large for a float64; it counts as infinite")
    elif text.lstrip("+-").isdigit() and (len(text) > 400 or int(text) != number):
        warn("a whole number has more digits than a float64; it is rounded")
    return number
