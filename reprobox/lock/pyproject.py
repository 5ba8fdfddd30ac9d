"""pyproject.toml read: its dependencies, and the groups and extras of it that are wanted."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reprobox.errors import SpecError
from reprobox.lock.choices import Choices

_FILE = "pyproject.toml"


@dataclass(frozen=True, kw_only=True)
class ProjectDependencies:
    """`listed` are the requirements with the key each stands under; `content` is all that a resolution depends on, so
    that an edit of a linter's settings does not cost a new one; `groups_only` says that there is no [project] table.
    """

    listed: tuple[tuple[str, str], ...]
    content: bytes
    groups_only: bool


def read_pyproject(text: str, choices: Choices) -> ProjectDependencies:
    """Read the text of a pyproject.toml.

    Raises SpecError when it is not TOML, lists no dependencies, leaves them to a build, or lacks a group or an extra.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{_FILE} is not valid TOML: {error}") from error
    listed = _groups(document, choices.groups)
    relevant: dict[str, Any] = {"groups": listed, "uv": document.get("tool", {}).get("uv")}
    project = document.get("project")
    if isinstance(project, dict):
        own = _dependencies(project, choices.extras)
        listed = [*own, *listed]
        relevant |= {"dependencies": own, "requires-python": project.get("requires-python")}
    elif choices.extras or not choices.groups:
        raise SpecError(
            f"{_FILE} has no [project] table",
            details=("project.dependencies is what is locked",),
            hint="List the packages in project.dependencies, or name another file (requirements).",
        )
    return ProjectDependencies(
        listed=tuple(listed),
        content=json.dumps(relevant, sort_keys=True, default=str).encode(),
        groups_only=not isinstance(project, dict),
    )


def _dependencies(project: Mapping[str, Any], wanted: Sequence[str]) -> list[tuple[str, str]]:
    dynamic = set(_strings(project.get("dynamic", []), "project.dynamic"))
    left = dynamic & ({"dependencies", "optional-dependencies"} if wanted else {"dependencies"})
    if left:
        raise SpecError(
            f"{_FILE} leaves its dependencies to the build (project.dynamic)",
            details=("no package code is executed to make a lock",),
            hint="List the packages in project.dependencies or in requirements.txt.",
        )
    found = _listed(project.get("dependencies", []), "project.dependencies")
    table = project.get("optional-dependencies", {})
    for extra in wanted:
        key = _find(extra, table, "extra", "project.optional-dependencies")
        found += _listed(table[key], f"project.optional-dependencies.{key}")
    return found


def _groups(document: Mapping[str, Any], wanted: Sequence[str]) -> list[tuple[str, str]]:
    if not wanted:
        return []
    from packaging.dependency_groups import resolve_dependency_groups  # not needed by `reprobox --help`

    table = document.get("dependency-groups", {})
    found = []
    for group in wanted:
        key = _find(group, table, "group", "dependency-groups")
        try:
            texts = resolve_dependency_groups(table, key)
        # It raises ValueError, TypeError, LookupError and an ExceptionGroup of them, all for what the file says.
        except Exception as error:
            inner = error.exceptions if isinstance(error, ExceptionGroup) else (error,)
            raise SpecError(
                f"{_FILE}: the dependency group {key} cannot be read", details=tuple(str(each) for each in inner)
            ) from error
        found += [(f"{_FILE}, dependency-groups.{key}[{number}]", text) for number, text in enumerate(texts)]
    return found


def _find(name: str, table: object, what: str, place: str) -> str:
    """Return the key by which `table` knows `name`: names are compared as PEP 503 normalises them."""
    from packaging.utils import canonicalize_name

    keys = list(table) if isinstance(table, Mapping) else []
    for key in keys:
        if canonicalize_name(key) == canonicalize_name(name):
            return str(key)
    raise SpecError(
        f"{_FILE} has no {what} {name}",
        details=(f"{place} holds: {', '.join(keys) or 'nothing'}",),
        hint=f"Name one of these (environment.{what}s), or leave it out.",
    )


def _listed(value: object, key: str) -> list[tuple[str, str]]:
    return [(f"{_FILE}, {key}[{number}]", text) for number, text in enumerate(_strings(value, key))]


def _strings(value: object, key: str) -> list[str]:
    if not isinstance(value, Iterable) or isinstance(value, str) or not all(isinstance(item, str) for item in value):
        raise SpecError(f"{_FILE}: {key} is not a list of strings")
    return [str(item) for item in value]
