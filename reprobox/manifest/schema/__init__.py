"""JSON Schemas (draft 2020-12) of manifest and receipt, for tools that are not reprobox.

They are made from the dataclasses and the rules, and kept in the package as `manifest-1.json` and `receipt-1.json`;
`python -m reprobox.manifest.schema` writes them anew. They say less than reprobox checks: digests, counts that must
agree and wheel file names are beyond them.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from reprobox.manifest import receipt
from reprobox.manifest.format import Format
from reprobox.manifest.rules import DIGEST
from reprobox.manifest.store import MANIFEST_FORMAT
from reprobox.validation import Rule, Rules, field_types, is_optional, json_schema

FORMATS: tuple[Format[Any], ...] = (MANIFEST_FORMAT, receipt.RECEIPT_FORMAT)


def schema_path(kind: Format[Any]) -> Path:
    """Return where the package keeps the schema of a format."""
    return Path(__file__).parent / f"{kind.what}-{kind.schema}.json"


def generate(kind: Format[Any]) -> str:
    """Return the JSON Schema of a format as text."""
    schema = json_schema(kind.model)
    models = {model.__name__: model for model in _models_of(kind.model)}
    schema["title"] = kind.model.__name__
    for title, entry in (*schema["$defs"].items(), (kind.model.__name__, schema)):
        _tighten(entry, models[title], kind.rules)
    properties = dict(schema["properties"])
    marker = {kind.marker: properties.pop(kind.marker)}
    digest = {"digest": _apply({"type": "string"}, DIGEST)}
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:reprobox:{kind.what}:{kind.schema}",
        **schema,
        "description": f"A reprobox {kind.what}, schema version {kind.schema}.",
        "properties": {**marker, **digest, **properties},
        "required": [*marker, "digest", *properties],
    }
    return json.dumps(whole, indent=2, sort_keys=True) + "\n"


def write_all() -> list[Path]:
    """Write the schemas of all formats into the package and return their paths."""
    for kind in FORMATS:
        schema_path(kind).write_text(generate(kind), encoding="utf-8")
    return [schema_path(kind) for kind in FORMATS]


def _models_of(model: type) -> list[type]:
    """List a dataclass and all dataclasses in it."""
    found = [model]
    pending: list[Any] = list(field_types(model).values())
    while pending:
        hint = pending.pop()
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            if hint not in found:
                found.append(hint)
                pending += field_types(hint).values()
        else:
            pending += getattr(hint, "__args__", ())
    return found


def _tighten(entry: dict[str, Any], model: type, rules: Rules) -> None:
    """Add to the schema of one dataclass what pydantic does not know of: rules, and which keys are always written."""
    entry.pop("description", None)
    entry["additionalProperties"] = False
    entry["required"] = [field.name for field in dataclasses.fields(model) if not is_optional(field)]
    for name, schema in entry["properties"].items():
        # What a reader fills in for a missing key is no part of the format, in which no key is missing.
        schema.pop("default", None)
        schema.pop("title", None)
        rule = rules.get(model, {}).get(name)
        if rule is not None:
            _apply(schema, rule)


def _apply(schema: dict[str, Any], rule: Rule) -> dict[str, Any]:
    """Put a rule into the schema of a field: on each item of a list, on the text or number of an optional field."""
    for branch in schema.get("anyOf", ()):
        _apply(branch, rule)
    match schema.get("type"):
        case "array":
            if rule.items:
                schema["minItems"] = rule.items
            _apply(schema["items"], rule)
        case "object" if isinstance(schema.get("additionalProperties"), dict):
            _apply(schema["additionalProperties"], rule)
        case "string":
            schema["description"] = rule.expected
            if rule.choices:
                schema["enum"] = list(rule.choices)
            if rule.pattern is not None:
                schema["pattern"] = f"^(?:{rule.pattern})$"
        case "integer":
            schema["description"] = rule.expected
            limits = {"minimum": rule.minimum, "maximum": rule.maximum}
            schema.update({name: limit for name, limit in limits.items() if limit is not None})
    return schema
