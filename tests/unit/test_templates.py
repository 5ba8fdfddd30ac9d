"""The starter projects are ordinary: plain scripts that know nothing of reprobox, and a spec that says all the rest."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

TEMPLATES = Path(__file__).parents[2] / "templates"
NAMES = ["language-model", "vision"]


@pytest.mark.parametrize("name", NAMES)
def test_a_starter_project_has_the_files_that_its_readme_lists(name: str) -> None:
    files = {path.name for path in (TEMPLATES / name).iterdir() if path.is_file()}
    assert files == {"train.py", "requirements.txt", "reprobox.yaml", "README.md"}
    readme = (TEMPLATES / name / "README.md").read_text()
    assert "reprobox run -- python train.py --epochs 2" in readme
    assert "reprobox replay runs/<id>/manifest.yaml" in readme


@pytest.mark.parametrize("name", NAMES)
def test_the_script_compiles_and_neither_mentions_reprobox_nor_seeds_anything(name: str) -> None:
    source = (TEMPLATES / name / "train.py").read_text()
    compile(source, "train.py", "exec")
    assert "reprobox" not in source.lower()
    assert "seed(" not in source
    assert "deterministic" not in source


@pytest.mark.parametrize("name", NAMES)
def test_every_package_that_the_script_imports_is_required(name: str) -> None:
    tree = ast.parse((TEMPLATES / name / "train.py").read_text())
    imported = {
        (alias.name if isinstance(node, ast.Import) else node.module or "").partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    required = {
        line.partition("==")[0].strip() for line in (TEMPLATES / name / "requirements.txt").read_text().splitlines()
    }
    third_party = {"sklearn": "scikit-learn"}
    standard = {"argparse", "importlib", "json", "math", "pathlib", "random"}
    assert {third_party.get(module, module) for module in imported - standard} <= required


@pytest.mark.parametrize("name", NAMES)
def test_the_spec_runs_the_script_deterministically_and_keeps_its_outputs(name: str) -> None:
    spec = yaml.safe_load((TEMPLATES / name / "reprobox.yaml").read_text())
    assert spec["command"] == ["python", "train.py"]
    assert spec["deterministic"] is True
    assert spec["outputs"] == ["outputs"]
    assert spec["metrics"] == ["outputs/metrics.json"]
    assert spec["environment"] == {"requirements": "requirements.txt"}
    assert isinstance(spec["seed"], int)
