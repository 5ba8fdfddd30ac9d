"""What is written for Apptainer, from manifests that anybody may have written."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from reprobox.errors import ManifestError, UsageError
from reprobox.manifest.model import Manifest
from reprobox.manifest.store import manifest_digest, read_manifest, write_manifest
from reprobox.progress import Observer
from reprobox.workflow.apptainer import definition_of, export_apptainer, script_of

DIGEST = "sha256:" + "a" * 64
POINTS = ("/usr/lib/python311.zip", "/opt/env/lib/python3.11/site-packages/reprobox.pth")
# Stands in for the program: writes down its arguments and what it would pass on.
APPTAINER = """#!/usr/bin/env python3
import json, os, sys
passed = {name: value for name, value in os.environ.items() if name.startswith("APPTAINERENV_")}
json.dump([sys.argv[1:], passed], open("asked.json", "w"))
open("record/stream-000.records", "w").close()
sys.exit(7)
"""


@pytest.fixture
def manifest() -> Manifest:
    return read_manifest(Path(__file__).parent.parent / "assets" / "manifest-1.yaml")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as it was exported, beside an `apptainer` that only writes down what it is asked."""
    program = tmp_path / "bin" / "apptainer"
    program.parent.mkdir()
    program.write_text(APPTAINER)
    program.chmod(0o755)
    folder = tmp_path / "cluster"
    (folder / "record").mkdir(parents=True)
    (folder / "record" / "config.json").write_text("{}")
    (folder / "code").mkdir()
    return folder


def train(manifest: Manifest, folder: Path, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    path = f"{folder.parent / 'bin'}:{os.environ['PATH']}"
    (folder / "train.sh").write_text(script_of(manifest))
    return subprocess.run(
        ["sh", "train.sh", *options], cwd=folder, env={"PATH": path, **env}, capture_output=True, text=True, check=False
    )


def asked(folder: Path) -> list[str]:
    arguments: list[str] = json.loads((folder / "asked.json").read_text())[0]
    return arguments


def mounts(folder: Path) -> list[list[str]]:
    """Return what each --mount asks for, read as Apptainer reads it: a line of CSV."""
    arguments = asked(folder)
    return list(csv.reader(arguments[place + 1] for place, word in enumerate(arguments) if word == "--mount"))


def test_it_builds_upon_the_archive_and_names_run_and_image(manifest: Manifest) -> None:
    lines = definition_of(manifest, "digits.oci.tar", DIGEST, POINTS).splitlines()
    assert lines[:2] == ["Bootstrap: oci-archive", "From: digits.oci.tar"]
    assert f"    org.reprobox.manifest {manifest_digest(manifest)}" in lines
    assert f"    org.reprobox.image {DIGEST}" in lines


def test_the_programs_own_folders_of_modules_are_on_its_path(manifest: Manifest) -> None:
    spec = replace(manifest.spec, pythonpath=("src", "."))
    lines = definition_of(replace(manifest, spec=spec), "digits.oci.tar", DIGEST, POINTS).splitlines()
    assert "    export PYTHONPATH=/work/src:/work" in lines


def test_a_command_is_no_part_of_what_a_builder_executes(manifest: Manifest) -> None:
    spec = replace(manifest.spec, command=("python", "x\n%post\n    touch /tmp/owned"))
    lines = definition_of(replace(manifest, spec=spec), "digits.oci.tar", DIGEST, POINTS).splitlines()
    sections = ["%labels", "%files", "%environment", "%help", "%runscript"]
    assert [line for line in lines if line.lstrip().startswith("%")] == sections


def test_the_image_holds_the_runtime_and_what_decides_about_bits(manifest: Manifest) -> None:
    lines = definition_of(manifest, "digits.oci.tar", DIGEST, POINTS).splitlines()
    assert "    runtime/reprobox /reprobox/site/reprobox" in lines
    assert "    runtime/start /usr/lib/python311.zip" in lines
    assert f"    runtime/reprobox.pth {POINTS[1]}" in lines
    variables = {line.strip() for line in lines if line.startswith("    export ")}
    assert {
        "export PYTHONHASHSEED=42",
        "export OMP_NUM_THREADS=2",
        "export CUBLAS_WORKSPACE_CONFIG=:4096:8",
    } <= variables


def test_variables_of_the_caller_are_passed_by_the_script_and_never_written_down(
    manifest: Manifest, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "a-secret")
    manifest = replace(manifest, data=(), spec=replace(manifest.spec, env=("TOKEN", "MISSING")))
    assert "a-secret" not in definition_of(manifest, "digits.oci.tar", DIGEST, POINTS) + script_of(manifest)
    train(manifest, folder, TOKEN='b, "c"')
    assert json.loads((folder / "asked.json").read_text())[1] == {"APPTAINERENV_TOKEN": 'b, "c"'}


def test_its_help_gives_temporary_files_a_place_on_disk(manifest: Manifest) -> None:
    # Apptainer's own is 64 MB of memory (apptainer.conf, `sessiondir max size`).
    lines = definition_of(manifest, "digits.oci.tar", DIGEST, POINTS).splitlines()
    commands = [line for line in lines if "apptainer exec" in line]
    assert len(commands) == 1 and "--containall --workdir SCRATCH" in commands[0]


def test_the_script_trains_with_record_code_and_data_and_passes_on_how_it_ended(
    manifest: Manifest, folder: Path, tmp_path: Path
) -> None:
    done = train(manifest, folder, "--writable-tmpfs", DATA=str(tmp_path / "my paper"))
    assert done.returncode == 7
    arguments = asked(folder)
    assert arguments[-6:] == ["--writable-tmpfs", "digits-cnn.sif", "python", "train.py", "--epochs", "2"]
    binds = [arguments[place + 1] for place, word in enumerate(arguments) if word == "--bind"]
    assert binds == ["record:/reprobox/record", "code:/work"]
    assert mounts(folder) == [["type=bind", f"src={tmp_path}/my paper/data/digits", "dst=/work/data/digits", "ro"]]
    assert "none" in arguments and "--nv" not in arguments


def test_a_folder_that_was_trained_in_is_not_trained_in_again(manifest: Manifest, folder: Path) -> None:
    manifest = replace(manifest, data=())
    assert train(manifest, folder).returncode == 7
    (folder / "asked.json").unlink()
    again = train(manifest, folder)
    assert again.returncode == 2 and "holds a training already" in again.stderr
    assert not (folder / "asked.json").exists()


def test_data_that_nobody_named_is_asked_for(manifest: Manifest, folder: Path) -> None:
    done = train(manifest, folder)
    assert done.returncode != 0 and "name the folder from which the paths of the data lead" in done.stderr


def test_whatever_the_command_and_the_data_are_called_the_shell_runs_nothing_of_it(
    manifest: Manifest, folder: Path, tmp_path: Path
) -> None:
    name = "a,b:c $(touch owned)' \"`touch owned`"
    data = replace(manifest.data[0], path=name)
    spec = replace(manifest.spec, command=("python", "-c", "x\n$(touch owned)`touch owned`'"))
    train(replace(manifest, data=(data,), spec=spec), folder, DATA=str(tmp_path))
    assert asked(folder)[-3:] == list(spec.command)
    assert mounts(folder) == [["type=bind", f"src={tmp_path}/{name}", f"dst=/work/{name}", "ro"]]
    assert not list(tmp_path.rglob("owned"))


def test_gpus_are_given_to_a_run_that_had_some_and_the_network_to_one_that_had_it(
    manifest: Manifest, folder: Path
) -> None:
    resources = replace(manifest.spec.resources, gpus="all")
    spec = replace(manifest.spec, resources=resources, network=True)
    train(replace(manifest, data=(), spec=spec), folder, CUDA_VISIBLE_DEVICES="0,1")
    assert "--nv" in asked(folder) and "--network" not in asked(folder)
    assert json.loads((folder / "asked.json").read_text())[1] == {"APPTAINERENV_CUDA_VISIBLE_DEVICES": "0,1"}


def exported(manifest: Manifest, tmp_path: Path) -> None:
    write_manifest(manifest, tmp_path / "manifest.yaml")
    export_apptainer(tmp_path, tmp_path / "cluster", cache=tmp_path, observer=Observer())


def test_a_run_without_a_container_has_no_image_to_export(manifest: Manifest, tmp_path: Path) -> None:
    engine = replace(manifest.engine, kind="local")
    with pytest.raises(UsageError, match="without a container"):
        exported(replace(manifest, image=None, engine=engine), tmp_path)


def test_a_run_of_another_seeding_scheme_is_not_exported(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="seeded by scheme 9"):
        exported(replace(manifest, run=replace(manifest.run, seed_scheme=9)), tmp_path)


@pytest.mark.parametrize("name", ["record", "code", "digits-cnn.def", "digits-cnn.oci.tar", "digits-cnn.sh"])
def test_what_may_be_a_record_or_the_users_own_is_not_written_over(
    manifest: Manifest, tmp_path: Path, name: str
) -> None:
    (tmp_path / "cluster" / name).mkdir(parents=True)
    with pytest.raises(UsageError, match=f"holds {name} already"):
        exported(manifest, tmp_path)
