"""What the tests of the lock share: tiny wheels, and a user whose only package index is a folder of them."""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import os
import ssl
import sys
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from reprobox.lock.model import Lock, LockedPackage
from reprobox.lock.pylock import NOTHING_BUILT
from reprobox.lock.resolution import Renewal, resolve
from reprobox.progress import Observer

PYTHON, PLATFORM = "3.11", "x86_64-manylinux_2_36"


class Listener(Observer):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.worked: list[tuple[str, str, int | None, int | None]] = []
        self.warnings: list[str] = []

    def working(self, phase: str, text: str, done: int | None = None, total: int | None = None) -> None:
        self.worked.append((phase, text, done, total))

    def warning(self, text: str) -> None:
        self.warnings.append(text)


def make_wheel(
    folder: Path, name: str, version: str, *, requires: tuple[str, ...] = (), tag: str = "py3-none-any", body: str = ""
) -> Path:
    """Write a wheel that holds one module; the same arguments give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-{tag}.whl"
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n{body}",
        f"{info}/METADATA": metadata + "".join(f"Requires-Dist: {each}\n" for each in requires),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = [f"{file},sha256={_record_hash(text)},{len(text.encode())}" for file, text in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,"]) + "\n"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(zipfile.ZipInfo(file, (2020, 1, 1, 0, 0, 0)), text)
    return path


def _record_hash(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def resolve_text(
    project: Path,
    text: str,
    *,
    name: str = "requirements.txt",
    renewal: Renewal | None = None,
    built: Mapping[str, LockedPackage] = NOTHING_BUILT,
) -> tuple[Lock, bool]:
    """Resolve `text`, as a file of the project, with the cache beside it."""
    (project / name).write_text(text)
    return resolve(
        project / name,
        python=PYTHON,
        platform=PLATFORM,
        cache=project.parent / "cache",
        observer=Listener(),
        renewal=renewal,
        built=built,
    )


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def become_user(monkeypatch: pytest.MonkeyPatch, home: Path, pip_conf: str = "") -> None:
    """Be a user with nothing but `pip_conf`: whatever this machine has set for pip and uv is out of sight."""
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_", "XDG_CONFIG")) or name.lower().endswith("_proxy") or name == "VIRTUAL_ENV":
            monkeypatch.delenv(name)
    home.mkdir(parents=True, exist_ok=True)
    (home / "pip.conf").write_text(pip_conf)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(home / "xdg"))
    monkeypatch.setenv("PIP_CONFIG_FILE", str(home / "pip.conf"))
    monkeypatch.setenv("UV_CACHE_DIR", str(home / "uv-cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def become_offline_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Be a user whose packages all come from one folder, named in pip's configuration; return that folder."""
    folder = tmp_path / "my wheels, all"
    folder.mkdir()
    become_user(monkeypatch, tmp_path / "home", f"[global]\nno-index = true\nfind-links = {folder.as_uri()}\n")
    return folder


@contextmanager
def served(
    folder: Path,
    answers: dict[str, list[int]] | None = None,
    password: str | None = None,
    context: ssl.SSLContext | None = None,
) -> Iterator[str]:
    """Serve `folder` by HTTP on this machine, encrypted with a `context`; yield the address.

    `answers` gives status codes for a path to fail with, one a request; `password` is asked of the user `reader`.
    """
    failures = answers or {}

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """Say nothing of a client that hangs up."""
            if not isinstance(sys.exception(), ConnectionError):
                super().handle_error(request, client_address)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            expected = "Basic " + base64.b64encode(f"reader:{password}".encode()).decode()
            if password is not None and self.headers.get("Authorization") != expected:
                self._refuse(401)
            elif failures.get(self.path):
                self._refuse(failures[self.path].pop(0))
            else:
                super().do_GET()

        def _refuse(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = Server(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http{'s' if context else ''}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
