"""`reprobox init`: a starter project from a template."""

from __future__ import annotations

import difflib
import shutil
from pathlib import Path

from reprobox.errors import UsageError


def templates_folder() -> Path:
    """Return where the templates lie: in a checkout beside the package, in an installed wheel inside it."""
    package = Path(__file__).parent.parent
    inside = package / "_templates"
    return inside if inside.is_dir() else package.parent / "templates"


def template_names() -> list[str]:
    """Return the names of all starter projects, sorted."""
    return sorted(folder.name for folder in templates_folder().iterdir() if (folder / "reprobox.yaml").is_file())


def init(template: str, target: Path) -> list[Path]:
    """Copy a starter project to `target`, which must not exist or be empty; return the files written, relative to it.

    Raises UsageError for an unknown template or a target that is not free.
    """
    names = template_names()
    if template not in names:
        near = difflib.get_close_matches(template, names, n=1)
        raise UsageError(
            f"no such template: {template}",
            details=(f"there are: {', '.join(names)}",),
            hint=f"did you mean {near[0]}?" if near else None,
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} is there already and not an empty folder", hint="choose another name")
    shutil.copytree(
        templates_folder() / template,
        target,
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("__pycache__", "runs", "replays", "outputs"),
    )
    return sorted(path.relative_to(target) for path in target.rglob("*") if path.is_file())
