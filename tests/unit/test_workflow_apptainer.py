"""The definition file for Apptainer, from manifests that anybody may have written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from reprobox.errors import UsageError
from reprobox.manifest.model import Manifest
from reprobox.manifest.store import manifest_digest, read_manifest
from reprobox.progress import Observer
from reprobox.workflow.apptainer import definition_of, export_apptainer

DIGEST = "sha256:" + "a" * 64


@pytest.fixture
def manifest() -> Manifest:
    return read_manifest(Path(__file__).parent.parent / "assets" / "manifest-1.yaml")


def test_it_builds_upon_the_archive_and_names_run_and_image(manifest: Manifest) -> None:
    lines = definition_of(manifest, "digits.oci.tar", DIGEST).splitlines()
    assert lines[:2] == ["Bootstrap: oci-archive", "From: digits.oci.tar"]
    assert f"    org.reprobox.manifest {manifest_digest(manifest)}" in lines
    assert f"    org.reprobox.image {DIGEST}" in lines


def test_a_command_cannot_add_a_section_that_a_builder_would_execute(manifest: Manifest) -> None:
    spec = replace(manifest.spec, command=("python", "x\n%post\n    touch /tmp/owned"))
    lines = definition_of(replace(manifest, spec=spec), "digits.oci.tar", DIGEST).splitlines()
    assert [line for line in lines if line.lstrip().startswith("%")] == ["%labels", "%help", "%runscript"]


def test_its_help_gives_temporary_files_a_place_on_disk(manifest: Manifest) -> None:
    # Apptainer's own is 64 MB of memory (apptainer.conf, `sessiondir max size`).
    commands = [
        line for line in definition_of(manifest, "digits.oci.tar", DIGEST).splitlines() if "apptainer exec" in line
    ]
    assert len(commands) == 1 and "--containall --workdir SCRATCH" in commands[0]


def test_a_run_without_a_container_has_no_image_to_export(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="without a container"):
        export_apptainer(replace(manifest, image=None), tmp_path, cache=tmp_path, observer=Observer())
