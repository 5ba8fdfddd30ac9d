"""`reprobox export`: what a run's environment looks like to other tools."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from packaging.pylock import Pylock

from reprobox.cli.export import command
from reprobox.errors import UsageError
from reprobox.image.model import BaseRecord
from reprobox.lock.model import Lock, LockedPackage
from reprobox.manifest.model import Manifest
from reprobox.manifest.store import read_manifest, write_manifest
from reprobox.progress import Observer
from reprobox.workflow.export import export_run, write_export
from tests.unit.lock_support import PLATFORM, PYTHON, become_offline_user, make_wheel, sha256_of

ASSET = Path(__file__).parent.parent / "assets" / "manifest-1.yaml"
Changed = Callable[..., Path]


@pytest.fixture
def changed(tmp_path: Path) -> Changed:
    """Write the example manifest with some of its fields replaced; return its path."""

    def write(base: BaseRecord | None = None, **fields: object) -> Path:
        manifest: Manifest = replace(read_manifest(ASSET), **fields)  # type: ignore[arg-type]
        if base is not None:
            assert manifest.image is not None
            manifest = replace(manifest, image=replace(manifest.image, base=base))
        write_manifest(manifest, tmp_path / "manifest.yaml")
        return tmp_path / "manifest.yaml"

    return write


def test_requirements_are_pinned_to_the_hash_of_each_wheel() -> None:
    text = export_run(ASSET, "requirements").text
    lock = read_manifest(ASSET).lock
    assert text.count("--hash=sha256:") == len(lock.packages) == 3
    assert f"numpy==2.4.6 \\\n    --hash=sha256:{lock.packages[0].sha256}\n" in text


def test_a_pylock_can_be_read_by_others_and_is_for_the_python_of_the_run() -> None:
    read = Pylock.from_dict(tomllib.loads(export_run(ASSET, "pylock").text))
    assert str(read.requires_python) == "==3.11.*"
    assert [package.name for package in read.packages] == ["numpy", "torch", "typing-extensions"]


def test_a_dockerfile_starts_from_debian_and_pins_every_wheel() -> None:
    text = export_run(ASSET, "dockerfile").text
    assert "ARG BASE=debian:bookworm-slim\n" in text
    assert "    'torch==2.13.0+cpu --hash=sha256:" in text
    assert 'PIP_EXTRA_INDEX_URL="https://download.pytorch.org/whl/cpu"' in text
    assert text.endswith('CMD ["python", "train.py", "--epochs", "2"]\n')
    assert "docker build -t digits-cnn - < Dockerfile\n" in text
    assert "wheels" not in text.partition("ARG BASE")[2]
    assert "{{" not in text


@pytest.mark.parametrize(
    ("base", "line"),
    [
        (BaseRecord(kind="registry", reference="python:3.11-slim", digest="sha256:" + "1" * 64), "python@sha256:111"),
        (
            BaseRecord(kind="registry", reference="host:5000/a/b:1@sha256:" + "2" * 64, digest="sha256:" + "1" * 64),
            "host:5000/a/b@sha256:111",
        ),
        (BaseRecord(kind="local", reference="mine:1", digest="sha256:" + "1" * 64), "mine:1\n"),
    ],
)
def test_a_dockerfile_starts_from_the_base_of_the_run(changed: Changed, base: BaseRecord, line: str) -> None:
    text = export_run(changed(base=base), "dockerfile").text
    assert f"ARG BASE={line}" in text
    assert "apt-get install --yes --no-install-recommends \\\n" not in text


def test_a_run_without_an_image_is_exported_over_a_slim_python(changed: Changed) -> None:
    path = changed(image=None, engine=replace(read_manifest(ASSET).engine, kind="local"))
    assert "ARG BASE=python:3.11-slim\n" in export_run(path, "dockerfile").text


def test_a_dockerfile_takes_wheels_that_no_index_offers_from_the_folder_of_the_run(changed: Changed) -> None:
    lock = read_manifest(ASSET).lock
    packed = replace(lock.packages[0], origin="editable")
    text = export_run(changed(lock=replace(lock, packages=(packed, *lock.packages[1:]))), "dockerfile").text
    assert "docker build -t digits-cnn -f Dockerfile runs/digits-cnn-0007\n" in text
    assert "COPY wheels /tmp/wheels\nRUN printf" in text
    assert "--require-hashes --find-links /tmp/wheels --requirement" in text


def test_a_run_that_installed_nothing_has_nothing_to_export(changed: Changed) -> None:
    with pytest.raises(UsageError, match="installed nothing over its base"):
        export_run(changed(lock=replace(read_manifest(ASSET).lock, packages=())), "dockerfile")


def test_a_document_goes_to_standard_output_or_into_the_file_named(tmp_path: Path) -> None:
    shown = CliRunner().invoke(command, ["requirements", str(ASSET)])
    assert shown.stdout == export_run(ASSET, "requirements").text
    target = tmp_path / "out" / "requirements.txt"
    done = CliRunner().invoke(command, ["requirements", str(ASSET), "-o", str(target), "--json"])
    assert json.loads(done.stdout) == {"format": "requirements", "packages": 3, "path": str(target)}
    assert target.read_text() == shown.stdout
    assert CliRunner().invoke(command, ["pylock", str(ASSET), "--wheels"]).exit_code == 2


@pytest.mark.parametrize("form", ["requirements", "pylock", "dockerfile"])
def test_what_is_there_already_is_not_replaced_unasked(tmp_path: Path, form: str) -> None:
    target = tmp_path / "file"
    target.write_text("mine\n")
    done = CliRunner().invoke(command, [form, str(ASSET), "-o", str(target)])
    assert isinstance(done.exception, UsageError)
    assert done.exception.message == f"{target} is there already"
    assert done.exception.hint == "--force replaces it"
    assert target.read_text() == "mine\n"
    assert CliRunner().invoke(command, [form, str(ASSET), "-o", str(target), "--force"]).exit_code == 0
    assert target.read_text() == export_run(ASSET, form).text


def test_wheels_are_put_where_the_pylock_expects_them(
    changed: Changed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wheel = make_wheel(become_offline_user(monkeypatch, tmp_path), "alpha", "1.0")
    package = replace(
        read_manifest(ASSET).lock.packages[0], name="alpha", version="1.0", file=wheel.name, sha256=sha256_of(wheel)
    )
    lock = replace(read_manifest(ASSET).lock, python=PYTHON, platform=PLATFORM, packages=(package,))
    target = tmp_path / "out" / "pylock.toml"
    done = CliRunner().invoke(
        command, ["pylock", str(changed(lock=lock)), "-o", str(target), "--wheels"], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    listed = Pylock.from_dict(tomllib.loads(target.read_text())).packages[0].wheels
    assert listed is not None
    kept = target.parent / str(listed[0].path)
    assert sha256_of(kept) == package.sha256

    again = ["pylock", str(tmp_path / "manifest.yaml"), "-o", str(target.with_name("pylock.gpu.toml")), "--wheels"]
    assert CliRunner().invoke(command, again).exit_code == 0, "the same wheel is no obstacle"
    kept.write_bytes(b"another build of it")
    again[3] = str(target.with_name("pylock.cpu.toml"))
    refused = CliRunner().invoke(command, again).exception
    assert isinstance(refused, UsageError) and str(kept) in refused.message
    assert not Path(again[3]).exists()


def test_wheels_that_no_index_offers_are_taken_from_beside_the_manifest(
    changed: Changed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    become_offline_user(monkeypatch, tmp_path)
    monkeypatch.setenv("REPROBOX_CACHE", str(tmp_path / "cache"))
    wheel = make_wheel(tmp_path / "wheels", "alpha", "1.0")
    package = LockedPackage(name="alpha", version="1.0", file=wheel.name, sha256=sha256_of(wheel), origin="sdist")
    lock = Lock(python=PYTHON, platform=PLATFORM, packages=(package,))
    export = export_run(changed(lock=lock), "pylock")
    (tmp_path / "out").mkdir()
    write_export(
        export,
        tmp_path / "out" / "pylock.toml",
        wheels=True,
        force=False,
        cache=tmp_path / "cache",
        observer=Observer(),
    )
    assert sha256_of(tmp_path / "out" / "wheels" / wheel.name) == package.sha256
