"""`reprobox doctor`: what works on this machine, and what to do about what does not."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from reprobox.engines import docker, local
from reprobox.errors import ReproboxError
from reprobox.fingerprint import observe


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing looked at: `status` is `ok`, `warning` (reprobox works without it) or `error`; `hint` what to do."""

    name: str
    status: str
    text: str
    hint: str | None = None


def diagnose(project: Path, *, cache: Path) -> list[Check]:
    """Look at everything reprobox may need. Never raises for what it finds."""
    return [
        *_docker(),
        _local(),
        *_gpu(),
        _uv(),
        _mmdebstrap(),
        _git(project),
        _disk("project folder", project),
        _disk("cache", cache),
    ]


def _docker() -> list[Check]:
    return [
        Check(name=name, status="ok" if ok else "warning", text=text, hint=hint)
        for name, ok, text, hint in docker.diagnose()
    ]


def _local() -> Check:
    try:
        python, glibc, architecture = local.python_and_platform()
    except ReproboxError as error:
        return Check(name="local engine", status="warning", text=error.message, hint=error.hint)
    return Check(name="local engine", status="ok", text=f"Python {python}, glibc {glibc[0]}.{glibc[1]}, {architecture}")


def _gpu() -> list[Check]:
    machine = observe()
    if not machine.gpus:
        return [Check(name="gpu", status="ok", text="none (nvidia-smi finds no GPU); training runs on the CPU")]
    return [
        Check(
            name="gpu",
            status="ok",
            text=f"{gpu.name}, compute {gpu.compute_capability}, {gpu.memory_mib} MiB, driver {machine.driver}",
        )
        for gpu in machine.gpus
    ]


def _version(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    text = (done.stdout or done.stderr).strip()
    return text.splitlines()[0] if done.returncode == 0 and text else None


def _uv() -> Check:
    try:
        import uv  # only here: finding the binary reads the installation's metadata

        version = _version([uv.find_uv_bin(), "--version"])
    except (ImportError, FileNotFoundError):
        version = None
    if version is None:
        return Check(name="uv", status="error", text="does not run", hint="reinstall: pip install --force-reinstall uv")
    return Check(name="uv", status="ok", text=version)


def _mmdebstrap() -> Check:
    version = _version(["mmdebstrap", "--version"])
    if version is None:
        return Check(
            name="mmdebstrap",
            status="warning",
            text="not installed: no Debian base can be made here",
            hint="apt install mmdebstrap, or use a registry base (image.base: python:3.11-slim)",
        )
    return Check(name="mmdebstrap", status="ok", text=version)


def _git(project: Path) -> Check:
    version = _version(["git", "--version"])
    if version is None:
        return Check(
            name="git", status="warning", text="not installed: no commit can be recorded", hint="apt install git"
        )
    inside = _version(["git", "-C", str(project), "rev-parse", "--show-toplevel"]) is not None
    return Check(name="git", status="ok", text=version + (", inside a checkout" if inside else ", not in a checkout"))


def _disk(name: str, folder: Path) -> Check:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:.0f} GB free"
    # A CPU torch environment takes 1.5 GB as layers and as much again in the engine; a CUDA one about 12.
    if free < 5e9:
        return Check(name=name, status="warning", text=text, hint="an environment with torch takes 3 to 15 GB")
    return Check(name=name, status="ok", text=text)
