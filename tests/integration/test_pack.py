"""A bundle is all that a replay needs: no network, nothing in the cache, nothing in the engine, no other program."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import HUNG, REPROBOX, Reprobox, remove_image

pytestmark = [
    pytest.mark.network,  # to lock what is packed; the replays have none
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a network namespace"),
]


@pytest.fixture
def with_data(tiny: Path) -> Path:
    """The tiny training, which now reads data too."""
    (tiny / "numbers").mkdir()
    (tiny / "numbers" / "rate.txt").write_text("0.1")
    text = (tiny / "train.py").read_text()
    (tiny / "train.py").write_text(text.replace("lr=0.1", "lr=float(open('numbers/rate.txt').read())"))
    with (tiny / "reprobox.yaml").open("a") as spec:
        spec.write("data: [numbers]\n")
    return tiny


def replay_cut_off(bundle: Path, folder: Path, *options: str) -> dict[str, Any]:
    """Replay in a network namespace without interfaces, with an empty cache and PATH, and none of pip's settings."""
    folder.mkdir()
    cache = folder / "cache"
    unshare = shutil.which("unshare")
    assert unshare is not None
    environment = {
        "PATH": "/nonexistent",
        "HOME": str(folder),
        "REPROBOX_CACHE": str(cache),
        "PIP_CONFIG_FILE": os.devnull,
        **{name: os.environ[name] for name in ("PYTHONPATH", "DOCKER_HOST") if name in os.environ},
    }
    # Only the loopback interface, which is down, is in a new namespace.
    seen = subprocess.run([unshare, "--net", "cat", "/proc/net/dev"], capture_output=True, text=True, check=True)
    assert [line.split(":")[0].strip() for line in seen.stdout.splitlines()[2:]] == ["lo"]
    command = [unshare, "--net", str(REPROBOX), "replay", str(bundle), "--json", *options]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=HUNG
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(cache)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.docker
def test_a_bundle_gives_the_same_image_and_losses_on_a_machine_without_network(
    reprobox: Reprobox, with_data: Path, tmp_path: Path
) -> None:
    report = reprobox("run", "--json", "--engine", "docker", folder=with_data).data
    packed = reprobox("pack", report["run_dir"], "-o", str(tmp_path / "run.rbx"), "--json", folder=tmp_path).data
    assert packed.keys() == {"file", "sha256", "size", "members"}
    remove_image(report["manifest"])
    shutil.rmtree(with_data)
    replay = replay_cut_off(Path(packed["file"]), tmp_path / "elsewhere")
    assert (replay["verdict"], replay["steps_compared"], replay["differences"]) == ("EXACT", 12, [])
    assert replay["image"] == {"recorded": report["image"], "rebuilt": report["image"]}


def test_a_bundle_of_a_local_run_is_replayed_without_network(
    reprobox: Reprobox, with_data: Path, tmp_path: Path
) -> None:
    report = reprobox("run", "--json", "--engine", "local", folder=with_data).data
    arguments = ["pack", report["manifest"], "--json"]
    first = reprobox(*arguments, "-o", str(tmp_path / "run.rbx"), folder=tmp_path).data
    again = reprobox(*arguments, "-o", str(tmp_path / "again.rbx"), folder=tmp_path).data
    assert first["sha256"] == again["sha256"]
    (tmp_path / "again.rbx").unlink()
    with zipfile.ZipFile(first["file"]) as archive:
        assert archive.testzip() is None
        assert not [name for name in archive.namelist() if name.startswith("image/")]
    shutil.rmtree(with_data)
    replay = replay_cut_off(Path(first["file"]), tmp_path / "elsewhere", "--engine", "local")
    assert (replay["verdict"], replay["steps_compared"], replay["differences"]) == ("EXACT", 12, [])
    shown = reprobox("show", first["file"], "--json", folder=tmp_path).data
    assert shown["data"][0]["path"] == "numbers"
