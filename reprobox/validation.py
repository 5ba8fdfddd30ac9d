"""Plain data into typed dataclasses, with every mistake found at once; for spec, manifest and receipt.

Types are checked by pydantic in strict mode (no text for a number, no number for text); which keys exist and which
values are allowed is read off the dataclasses and a table of rules, from which the JSON Schemas are made as well.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

from reprobox.errors import ReproboxError

T = TypeVar("T")
Where: TypeAlias = tuple[str | int, ...]

# Metadata of a dataclass field that came after documents were written without it: it needs a default, and documents
# leave the key out while it holds that, so that older ones stay what they are, to the digest.
OPTIONAL: Mapping[str, bool] = types.MappingProxyType({"optional": True})

# A hostile document can hold any number of mistakes; nobody reads more than a screenful.
MAX_REPORTED = 20
# From here on pydantic's own list of mistakes, which takes seconds to make, adds nothing.
_HOPELESS = 1000

_TYPE_ERRORS = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "string_type": "text",
    "tuple_type": "a list",
    "dict_type": "keys and values",
    "dataclass_type": "keys and values",
}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What a field may hold beyond its type; for a field that is a list or a map of text or numbers, what each
    item may.

    `expected` says it in words; `pattern` (a regular expression that both Python and ECMA 262 read alike, matched
    against the whole text), `choices`, `minimum` and `maximum` say it to the machine; `items` is the least length of
    a list; `suggest` turns a bad text into a good one, or returns None.
    """

    expected: str
    pattern: str | None = None
    choices: tuple[str, ...] = ()
    minimum: int | None = None
    maximum: int | None = None
    items: int = 0
    suggest: Callable[[str], str | None] | None = None

    def allows(self, value: str | int) -> bool:
        """Say whether a text or a number keeps the rule; a value of another type is not the rule's business."""
        if isinstance(value, str):
            return (not self.choices or value in self.choices) and (
                self.pattern is None or re.fullmatch(self.pattern, value) is not None
            )
        return (self.minimum is None or value >= self.minimum) and (self.maximum is None or value <= self.maximum)

    def suggestion(self, value: object) -> str | None:
        """Return what the writer of a bad value probably meant, or None."""
        if not isinstance(value, str):
            return None
        if self.suggest is not None:
            return self.suggest(value)
        return closest(value, self.choices)


Rules: TypeAlias = Mapping[type, Mapping[str, Rule]]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One mistake in a document: the entry at `path` holds a bad value, is missing, or is unknown to the format.

    `text` says what is wrong with a value, `expected` lists the keys that are known, `suggestion` what was meant.
    """

    path: Where
    kind: Literal["value", "missing", "unknown"] = "value"
    text: str = ""
    expected: str | None = None
    suggestion: str | None = None


def printable(text: str, limit: int = 80) -> str:
    """Return `text` fit for one line of a terminal: control characters escaped, cut after `limit` characters."""
    cut = text if len(text) <= limit else text[:limit] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def dotted(path: Where) -> str:
    """Write a path as people do: `lock.packages[3].sha256`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{printable(part)}" for part in path)
    return text.removeprefix(".")


def closest(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice that `word` is probably a slip of, or None."""
    import difflib  # only needed when something is wrong

    return next(iter(difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)), None)


def describe(value: object) -> str:
    """Say what was found, as the reader of the document sees it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return printable(value) if value.strip() else "empty text"
    if isinstance(value, int):
        return str(value)
    return "keys and values" if isinstance(value, dict) else "a list" if isinstance(value, list) else repr(value)


def to_plain(value: Any) -> Any:
    """Turn a dataclass and everything in it into the plain dicts and lists that a document holds, in field order.

    OPTIONAL fields that hold their default are left out.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not (is_optional(field) and getattr(value, field.name) == field.default)
        }
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value


def is_optional(field: dataclasses.Field[Any]) -> bool:
    """Tell whether a document may lack the key of this field."""
    return "optional" in field.metadata


def build(model: type[T], data: Mapping[str, Any], rules: Rules) -> tuple[T | None, list[Problem]]:
    """Make a `model` (a dataclass of dataclasses) of plain data.

    Returns it with an empty list, or None with every problem that was found: unknown and missing keys, wrong types,
    values that break a rule.
    """
    problems = list(_walk(model, data, rules, ()))
    kind: type = model
    built: T | None = None
    if len(problems) > _HOPELESS:
        return None, problems
    if not problems:
        with contextlib.suppress(_UnclearError):
            built = _fitted(kind, data)
            return built, []
    import pydantic_core  # it takes a tenth of a second to load, so it is asked only for what it does better: mistakes

    try:
        # Through JSON, because pydantic's strict mode takes lists for tuples and mappings for dataclasses only there.
        # What is not UTF-8 is among the problems already, and would be its only one.
        content = json.dumps(data, ensure_ascii=False).encode(errors="replace")
        built = _adapter(kind).validate_json(content, strict=True)
    except pydantic_core.ValidationError as error:
        problems += (_problem_of(dict(each)) for each in error.errors(include_url=False, include_context=False))
    return (None if problems else built), problems


class _UnclearError(Exception):
    """A value is not plainly of its type: pydantic decides, and finds the words where it is wrong."""


def _fitted(hint: Any, value: Any) -> Any:
    """Return `value` as the type `hint` has it, where that is plain to see; what comes out is what pydantic makes."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, dict):
        kinds = field_types(hint)
        try:
            return hint(**{key: _fitted(kinds[key], item) for key, item in value.items()})
        except (KeyError, TypeError, ValueError) as error:
            raise _UnclearError from error
    if origin is tuple and parts[1:] == (...,) and isinstance(value, list):
        return tuple(_fitted(parts[0], item) for item in value)
    if origin is dict and parts[0] is str and isinstance(value, dict) and all(map(_is_text, value)):
        return {key: _fitted(parts[1], item) for key, item in value.items()}
    if origin in (types.UnionType, typing.Union):
        for part in parts:
            with contextlib.suppress(_UnclearError):
                return _fitted(part, value)
    if origin is typing.Literal and _is_text(value) and value in parts:
        return value
    if (hint is str and _is_text(value)) or (hint in (bool, types.NoneType) and type(value) is hint):
        return value
    if hint is int and type(value) is int and abs(value) < 1 << 63:
        return value
    raise _UnclearError


def _is_text(value: Any) -> bool:
    """Say whether it is text that can be written as UTF-8."""
    return type(value) is str and (value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value))


@functools.cache
def _adapter(model: type) -> Any:
    import pydantic  # see build

    return pydantic.TypeAdapter(model)


def json_schema(model: type) -> dict[str, Any]:
    """Return pydantic's JSON Schema of `model`, without the rules."""
    schema: dict[str, Any] = _adapter(model).json_schema()
    return schema


def _problem_of(error: Mapping[str, Any]) -> Problem:
    path: Where = tuple(error["loc"])
    if error["type"] == "missing":
        return Problem(path=path, kind="missing")
    found = error["input"]
    expected = _TYPE_ERRORS.get(error["type"])
    if expected is None:
        return Problem(path=path, text=str(error["msg"]))
    suggestion = f'"{describe(found)}" in quotes' if expected == "text" and isinstance(found, int) else None
    return Problem(path=path, text=f"expected {expected}, found {describe(found)}", suggestion=suggestion)


@functools.cache
def field_types(model: type) -> Mapping[str, Any]:
    """Return the types of the fields of a dataclass by name."""
    hints = typing.get_type_hints(model)
    return {field.name: hints[field.name] for field in dataclasses.fields(model)}


def _walk(model: type, data: Any, rules: Rules, path: Where) -> Iterator[Problem]:
    """Find the unknown keys and the broken rules in `data`; wrong types are left to pydantic."""
    if not isinstance(data, dict):
        return
    fields = field_types(model)
    for key, value in data.items():
        here = (*path, key)
        if key not in fields:
            yield Problem(
                path=here,
                kind="unknown",
                expected="one of: " + ", ".join(fields),
                suggestion=closest(key, fields),
            )
            continue
        rule = rules.get(model, {}).get(key)
        if isinstance(value, list):
            if rule is not None and len(value) < rule.items:
                yield Problem(path=here, text=f"expected {rule.expected}, found an empty list")
            inner = _dataclass_in(fields[key])
            for index, item in enumerate(value):
                yield from _visit(inner, rule, item, rules, (*here, index))
        elif isinstance(value, dict) and typing.get_origin(fields[key]) is dict:
            for name, item in value.items():
                yield from _visit(None, rule, item, rules, (*here, name))
        else:
            yield from _visit(_dataclass_in(fields[key]), rule, value, rules, here)


def _visit(inner: type | None, rule: Rule | None, value: Any, rules: Rules, path: Where) -> Iterator[Problem]:
    if inner is not None:
        yield from _walk(inner, value, rules, path)
    elif isinstance(value, str) and not _is_text(value):
        yield Problem(path=path, text=f"expected text in UTF-8, found {describe(value)}")
    elif rule is not None and isinstance(value, (str, int)) and not isinstance(value, bool) and not rule.allows(value):
        yield Problem(
            path=path,
            text=f"expected {rule.expected}, found {describe(value)}",
            suggestion=rule.suggestion(value),
        )


def _dataclass_in(hint: Any) -> type | None:
    """Return the dataclass meant by `X`, `X | None` or `tuple[X, ...]`, else None."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return hint
    if typing.get_origin(hint) in (tuple, types.UnionType, typing.Union):
        return next((found for part in typing.get_args(hint) if (found := _dataclass_in(part))), None)
    return None


def report(
    problems: Iterable[Problem],
    *,
    source: str,
    subject: str,
    place: Callable[[Where], str],
    error: type[ReproboxError],
    hint: str | None = None,
) -> ReproboxError:
    """Make one error of all problems: each with its place, what was expected and what was probably meant.

    `source` names the document, `subject` the format (`reprobox.yaml`, `a manifest of schema 1`); `place` gives the
    `file:line` of a path, or the flag that set it.
    """
    found = list(problems)
    entries: list[tuple[str, ...]] = []
    for problem in found[:MAX_REPORTED]:
        where, name = place(problem.path), dotted(problem.path)
        if problem.kind == "unknown":
            lines = [f"{where}: {name} is not a key of {subject}"]
        elif problem.kind == "missing":
            lines = [f"{where}: {name} is missing"]
        else:
            # A flag names its entry already.
            lines = [f"{where}: {problem.text}" if where.startswith("-") else f"{where}: {name}: {problem.text}"]
        if problem.expected:
            lines.append(f"expected {problem.expected}")
        if problem.suggestion:
            lines.append(f"did you mean {problem.suggestion}?")
        entries.append(tuple(lines))
    if len(entries) == 1:
        message, *details = entries[0]
        return error(message, details=tuple(details), hint=hint)
    details = [("  " if at else "") + line for entry in entries for at, line in enumerate(entry)]
    if len(found) > MAX_REPORTED:
        details.append(f"and {len(found) - MAX_REPORTED} more")
    return error(f"{source} holds {len(found)} mistakes", details=tuple(details), hint=hint)
