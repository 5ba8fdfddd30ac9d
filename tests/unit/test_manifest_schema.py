"""The JSON Schemas in the package are those of the models, and the stored examples keep to them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from reprobox.manifest.format import Format
from reprobox.manifest.schema import FORMATS, generate, schema_path

ASSETS = Path(__file__).parent.parent / "assets"

formats = pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.what)


@formats
def test_the_schema_in_the_package_is_up_to_date(kind: Format[Any]) -> None:
    stored = schema_path(kind).read_text(encoding="utf-8")
    assert stored == generate(kind), "stale: run `python -m reprobox.manifest.schema` and commit what it wrote"


@formats
def test_the_stored_example_is_valid_and_the_schema_itself_too(kind: Format[Any]) -> None:
    schema = json.loads(generate(kind))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load((ASSETS / f"{kind.what}-1.yaml").read_bytes()), schema)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("name",), "Digits CNN"),
        (("digest",), "sha256:12"),
        (("run", "seed"), -1),
        (("run", "status"), "done"),
        (("result", "outputs", 0, "path"), "../x"),
        (("image", "diff_ids"), []),
        (("image", "diff_ids", 0), "latest"),
        (("lock", "packages", 0, "file"), "a/b.whl"),
        (("machine", "extra"), 1),
        (("run", "exit_code"), "0"),
    ],
)
def test_the_schema_knows_the_rules(path: tuple[Any, ...], value: object) -> None:
    schema = json.loads(schema_path(FORMATS[0]).read_text(encoding="utf-8"))
    data = copy.deepcopy(yaml.safe_load((ASSETS / "manifest-1.yaml").read_bytes()))
    at = data
    for part in path[:-1]:
        at = at[part]
    at[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, schema)
