"""The debian base from Debian's real archive: a snapshot, a release chosen by its Python, packages by name."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from reprobox.engines.docker import DockerEngine
from reprobox.errors import ImageError
from reprobox.image.aptsources import SNAPSHOT_VARIABLE, debian_sources
from reprobox.image.bases import Wishes, resolve_base
from reprobox.manifest.store import read_manifest
from reprobox.progress import Observer
from tests.integration.conftest import Reprobox, remove_image

pytestmark = [
    pytest.mark.docker,
    pytest.mark.network,
    pytest.mark.skipif(not shutil.which("mmdebstrap"), reason="mmdebstrap is not here"),
]

MOMENT = "20261101T000000Z"


@pytest.fixture
def snapshots(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A mirror of snapshot.debian.org that holds one moment: the archive as it is now. Returns what is asked of it."""
    sources = [line.partition("] ")[2].split() for line in debian_sources("bookworm", Path("/etc/apt"))]
    archives = {
        f"debian{'-security' if suite.endswith('-security') else ''}": uri.rstrip("/") for uri, suite, _ in sources
    }
    assert archives.keys() == {"debian", "debian-security"}, "this machine's apt sources name both archives"
    asked: list[str] = []

    class Redirecting(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            _, _, archive, moment, *rest = self.path.split("/")
            if moment == MOMENT:
                self.send_response(302)
                self.send_header("Location", "/".join([archives[archive], *rest]))
            else:
                self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Redirecting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv(SNAPSHOT_VARIABLE, f"http://127.0.0.1:{server.server_port}/archive")
        yield asked
        server.shutdown()


def test_two_builds_from_one_snapshot_are_one_base(tmp_path: Path, snapshots: list[str]) -> None:
    wishes = Wishes(snapshot="2026-11-01T00:00:00Z")
    one, two = (
        resolve_base("debian", DockerEngine(), cache=tmp_path / name, observer=Observer(), wishes=wishes)
        for name in ("one", "two")
    )
    assert one == two
    assert len(one.record.debs) == len(one.record.packages) > 50
    assert {path.split("/")[2] for path in snapshots} == {"debian", "debian-security"}
    assert sum(path.endswith(".deb") for path in snapshots) >= 2 * len(one.record.debs), (
        "not all came from the snapshot"
    )


@pytest.mark.usefixtures("snapshots")
def test_a_moment_that_no_mirror_holds_is_named_with_the_way_out(tmp_path: Path) -> None:
    wishes = Wishes(snapshot="2026-10-01T00:00:00Z")
    with pytest.raises(ImageError, match="as of 2026-10-01T00:00:00Z cannot be had from http://127") as caught:
        resolve_base("debian", DockerEngine(), cache=tmp_path, observer=Observer(), wishes=wishes)
    assert SNAPSHOT_VARIABLE in (caught.value.hint or "")


PROGRAM = """
import pathlib, subprocess, sys
import numpy
said = subprocess.run(["jq", "-n", "6 * 7"], capture_output=True, text=True, check=True).stdout
pathlib.Path("outputs").mkdir()
pathlib.Path("outputs/said").write_text("%d.%d %s" % (*sys.version_info[:2], said))
"""


def test_a_run_with_another_python_and_debian_packages_of_the_users_own(reprobox: Reprobox, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(PROGRAM)
    (tmp_path / "requirements.txt").write_text("numpy\n")
    (tmp_path / "reprobox.yaml").write_text(
        "name: bases\ncommand: [python, train.py]\nenvironment: {python: 3.13}\nimage: {base: debian, apt: [jq]}\n"
    )
    run = reprobox("run", "--json", folder=tmp_path)
    folder = Path(run.data["run_dir"])
    assert (folder / "work" / "outputs" / "said").read_text() == "3.13 42\n"
    manifest = read_manifest(folder / "manifest.yaml")
    assert manifest.image is not None
    base = manifest.image.base
    assert (base.kind, base.reference, manifest.lock.python) == ("debian", "trixie", "3.13")
    assert any(name.startswith("jq_") for name in base.debs)
    replayed = reprobox("replay", "--json", str(folder / "manifest.yaml"), folder=tmp_path)
    assert replayed.data["verdict"] == "EXACT"
    remove_image(str(folder / "manifest.yaml"))
