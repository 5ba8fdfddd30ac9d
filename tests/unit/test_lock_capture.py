"""An environment captured as it is: real virtual environments, made by uv of a folder of wheels, without a network."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import uv
from click.testing import CliRunner

from reprobox.cli.lock import command
from reprobox.engines import open_engine
from reprobox.errors import LockError, SpecError
from reprobox.image.wheel import open_wheel
from reprobox.lock.capture import capture, inspect, read_inspection
from reprobox.lock.download import wheel_path
from reprobox.lock.model import Lock
from reprobox.lock.repack import editable_contents, repack
from reprobox.spec import load_spec
from reprobox.workflow.environment import prepare
from tests.unit.lock_support import Listener, become_offline_user, make_wheel, sha256_of

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
PLATFORM = "x86_64-manylinux_2_36"


class Venv:
    """A virtual environment with alpha 1.0 and beta 1.5, whose `python` is the first in PATH."""

    def __init__(self, root: Path, wheels: Path) -> None:
        self.root, self.wheels = root, wheels
        self.site = root / "lib" / f"python{PYTHON}" / "site-packages"
        subprocess.run([uv.find_uv_bin(), "venv", "-q", "--python", sys.executable, str(root)], check=True)
        self.install("alpha==1.0", "beta==1.5")

    def install(self, *names: str) -> None:
        where = ["--no-index", "--find-links", self.wheels.as_uri().replace(",", "%2C")]
        python = ["--python", str(self.root / "bin" / "python")]
        subprocess.run([uv.find_uv_bin(), "pip", "install", "-q", *where, *python, *names], check=True)

    def add(self, name: str, files: dict[str, str], direct_url: dict[str, object]) -> None:
        """Install by hand what a tool would install from a folder."""
        info = f"{name}-0.1.dist-info"
        files = {
            **files,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/direct_url.json": json.dumps({"url": "file:///somewhere/private", **direct_url}),
        }
        for file, text in {
            **files,
            f"{info}/RECORD": "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"]),
        }.items():
            (self.site / file).parent.mkdir(parents=True, exist_ok=True)
            (self.site / file).write_text(text)


@pytest.fixture
def wheels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = become_offline_user(monkeypatch, tmp_path)
    make_wheel(folder, "alpha", "1.0", requires=("beta",))
    make_wheel(folder, "beta", "1.5")
    make_wheel(folder, "beta", "2.0")
    return folder


@pytest.fixture
def venv(wheels: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Venv:
    made = Venv(tmp_path / "venv", wheels)
    monkeypatch.setenv("PATH", f"{made.root / 'bin'}:/usr/bin:/bin")
    return made


def captured(tmp_path: Path) -> tuple[Lock, list[str]]:
    listener = Listener()
    lock = capture(inspect(listener), platform=PLATFORM, folder=tmp_path, cache=tmp_path / "cache", observer=listener)
    return lock, listener.warnings


def names_in(lock: Lock, name: str, tmp_path: Path) -> list[str]:
    package = next(each for each in lock.packages if each.name == name)
    with zipfile.ZipFile(wheel_path(tmp_path / "cache", package)) as archive:
        return archive.namelist()


def test_what_an_index_offers_is_locked_to_the_wheel_that_was_installed(venv: Venv, tmp_path: Path) -> None:
    lock, warnings = captured(tmp_path)
    assert [(each.name, each.version, each.origin) for each in lock.packages] == [
        ("alpha", "1.0", None),
        ("beta", "1.5", None),
    ]
    assert lock.packages[1].sha256 == sha256_of(venv.wheels / "beta-1.5-py3-none-any.whl")
    assert (lock.python, warnings) == (PYTHON, [])


def test_an_edited_file_is_named_and_what_runs_is_the_edited_one(venv: Venv, tmp_path: Path) -> None:
    (venv.site / "beta.py").write_text("VERSION = 'mine'\n")
    lock, warnings = captured(tmp_path)
    assert [each.origin for each in lock.packages] == [None, "edited"]
    assert warnings == [
        "beta 1.5 is packed from its installed files: edited since it was installed: beta.py",
    ]
    with zipfile.ZipFile(wheel_path(tmp_path / "cache", lock.packages[1])) as archive:
        assert archive.read("beta.py") == b"VERSION = 'mine'\n"


def test_another_wheel_of_the_same_version_is_not_taken_for_the_installed_one(venv: Venv, tmp_path: Path) -> None:
    make_wheel(venv.wheels, "beta", "1.5", body="rebuilt = 1\n")
    lock, warnings = captured(tmp_path)
    assert lock.packages[1].origin == "edited"
    assert warnings == ["beta 1.5 is packed from its installed files: the wheel that your indexes offer is another one"]


def test_what_no_index_offers_is_packed_to_the_same_bytes_each_time(venv: Venv, tmp_path: Path) -> None:
    for wheel in venv.wheels.glob("alpha*"):
        wheel.unlink()
    first, warnings = captured(tmp_path)
    assert [(each.name, each.origin) for each in first.packages] == [("alpha", "unpublished"), ("beta", None)]
    assert warnings == ["alpha 1.0 is packed from its installed files: none of your indexes offers a wheel of it"]
    (venv.site / "alpha.py").touch()
    assert captured(tmp_path)[0] == first
    package = first.packages[0]
    with open_wheel(package, wheel_path(tmp_path / "cache", package)) as wheel:
        assert wheel.stem == "alpha-1.0"


def test_an_editable_install_is_packed_from_its_source_without_what_is_no_package(venv: Venv, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for file in ("mine/__init__.py", "mine/deep/data.json", "mine/__pycache__/x.pyc", "tests/__init__.py", "setup.py"):
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        (source / file).write_text("1")
    venv.add("mine", {"__editable__.mine-0.1.pth": f"{source}\n"}, {"dir_info": {"editable": True}})
    lock, warnings = captured(tmp_path)
    assert lock.packages[2].origin == "editable"
    assert warnings == ["mine 0.1 is packed from its installed files: it is an editable install"]
    assert names_in(lock, "mine", tmp_path) == [
        "mine-0.1.dist-info/METADATA",
        "mine-0.1.dist-info/WHEEL",
        "mine/__init__.py",
        "mine/deep/data.json",
        "mine-0.1.dist-info/RECORD",
    ]


def test_the_finder_of_setuptools_is_read_and_not_run(tmp_path: Path) -> None:
    (tmp_path / "code" / "pkg").mkdir(parents=True)
    (tmp_path / "code" / "pkg" / "__init__.py").write_text("")
    (tmp_path / "code" / "single.py").write_text("")
    mapping = {"pkg": str(tmp_path / "code" / "pkg"), "single": str(tmp_path / "code" / "single")}
    finder = "__editable___x_0_1_finder.py"
    (tmp_path / finder).write_text(f"MAPPING: dict = {mapping!r}\nraise SystemExit('was run')\n")
    contents = editable_contents("x", tmp_path, [finder], [], "x-0.1")
    assert sorted(contents) == ["pkg/__init__.py", "single.py"]
    with pytest.raises(LockError, match="in a way that does not say where its source is"):
        editable_contents("x", tmp_path, [], [], "x-0.1")


def test_an_install_from_version_control_is_marked_and_its_address_kept_nowhere(venv: Venv, tmp_path: Path) -> None:
    venv.add(
        "fork",
        {"a/_vendor/b-1.dist-info/RECORD": "", "fork/__init__.py": "x = 1\n"},
        {"vcs_info": {"vcs": "git", "commit_id": "0" * 40}},
    )
    lock, warnings = captured(tmp_path)
    assert [each.origin for each in lock.packages if each.name == "fork"] == ["vcs"]
    assert "version control" in warnings[0]
    names = names_in(lock, "fork", tmp_path)
    assert "fork-0.1.dist-info/direct_url.json" not in names
    # What a package carries inside is its own affair.
    assert "a/_vendor/b-1.dist-info/RECORD" in names


def test_a_packed_file_keeps_the_right_to_be_executed(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    repack("x-1", ("py3-none-any",), {"x/program": program, "x/data": b"1"}, tmp_path / "x.whl")
    with zipfile.ZipFile(tmp_path / "x.whl") as archive:
        assert {entry.filename: entry.external_attr >> 16 & 0o777 for entry in archive.infolist()} == {
            "x/program": 0o755,
            "x/data": 0o644,
            "x-1.dist-info/WHEEL": 0o644,
            "x-1.dist-info/RECORD": 0o644,
        }


def test_what_keeps_no_record_and_an_environment_that_is_not_there_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    entry = {
        "name": "Old",
        "version": "1",
        "site": "/x",
        "direct_url": None,
        "files": None,
        "tags": [],
        "top_level": [],
    }
    with pytest.raises(LockError, match="old 1 in the environment cannot be captured: it keeps no RECORD"):
        read_inspection({"python": PYTHON, "distributions": [entry]})
    assert read_inspection({"python": PYTHON, "distributions": [{**entry, "name": "reprobox"}]}).distributions == ()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LockError, match="no python in PATH"):
        inspect(Listener())


def test_a_captured_lock_marks_what_it_packed_keeps_it_beside_and_is_what_a_run_takes(
    venv: Venv, tmp_path: Path
) -> None:
    (venv.site / "beta.py").write_text("VERSION = 'mine'\n")
    project = tmp_path / "project"
    project.mkdir()
    arguments = ["--engine", "local", "--json", "--from-env", "-C", str(project)]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert json.loads(done.stdout)["packed"] == {"beta": "edited"}
    assert [path.name for path in (project / "wheels").iterdir()] == ["beta-1.5-py3-none-any.whl"]
    text = (project / "pylock.toml").read_text()
    assert 'tool.reprobox.origin = "edited"' in text
    assert str(tmp_path) not in text

    def run() -> Lock:
        spec = load_spec(project, file=None, overrides={"command": ["python"]})
        return prepare(open_engine("local"), spec, project, cache=tmp_path / "other", observer=Listener()).lock

    assert [(each.name, each.origin) for each in run().packages] == [("alpha", None), ("beta", "edited")]
    (project / "requirements.txt").write_text("alpha\n")
    with pytest.raises(SpecError, match=r"pylock.toml was made of other requirements"):
        run()


def test_a_mark_is_part_of_a_lock_and_its_absence_is_not(venv: Venv, tmp_path: Path) -> None:
    lock, _ = captured(tmp_path)
    plain = [
        {"name": each.name, "version": each.version, "file": each.file, "sha256": each.sha256} for each in lock.packages
    ]
    text = json.dumps(
        {"packages": plain, "platform": PLATFORM, "python": PYTHON}, sort_keys=True, separators=(",", ":")
    )
    assert lock.digest == "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    marked = replace(lock, packages=(replace(lock.packages[0], origin="vcs"), *lock.packages[1:]))
    assert marked.digest != lock.digest
