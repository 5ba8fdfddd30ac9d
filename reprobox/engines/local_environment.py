"""The local engine's environments: a Lock installed by uv into a virtual environment, once, in the cache."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from reprobox.cache import hold, in_use_file, locked, mark_used
from reprobox.digests import hex_of
from reprobox.errors import EngineError, StorageError
from reprobox.lock.model import Lock
from reprobox.progress import Observer

# Written last, so that an environment without it was cut off while it was made.
_COMPLETE = "reprobox-complete"

_REINSTALL = "Install reprobox again, or uv into the same environment (`pip install --force-reinstall uv`)."


def python_and_platform() -> tuple[str, tuple[int, int], str]:
    """Return what a lock for this machine is made for: Python's minor version, glibc's version, the architecture.

    For example `("3.11", (2, 36), "x86_64")`; the Python is the one that runs reprobox, as it is surely there. Raises
    EngineError where the C library is not glibc, for which there are hardly any wheels.
    """
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        major, minor = (int(part) for part in version.split(".")[:2])
    except (ValueError, OSError):
        name, major, minor = "", 0, 0
    if name != "glibc":
        raise EngineError(
            "the local engine cannot run here: this system's C library is not glibc",
            hint="Use the docker engine, which brings its own system.",
        )
    return f"{sys.version_info.major}.{sys.version_info.minor}", (major, minor), platform.machine()


def prepare(lock: Lock, wheels: Mapping[str, Path], *, cache: Path, observer: Observer) -> Path:
    """Return a virtual environment with exactly the wheels of `lock`, made if the cache does not hold it.

    `wheels` gives the file of each wheel by its sha256, which is checked again as it is installed. The interpreter is
    one of this machine and never downloaded. Raises EngineError when there is none of the lock's version or a wheel
    does not fit this machine, StorageError when the cache cannot be written.
    """
    digest = hex_of(lock.digest)[:16]
    # A virtual environment's scripts hold its path, so it is made where it stays: under a lock, with a mark at the end.
    place = cache / "venvs" / digest
    try:
        with locked(cache / "venvs" / f"{digest}.lock"):
            hold(in_use_file(place))
            if _is_complete(place):
                mark_used([place / _COMPLETE])
                observer.finished("venv", f"{len(lock.packages)} packages, Python {lock.python}", "cached")
                return place
            observer.working("environment", f"installing {len(lock.packages)} packages")
            shutil.rmtree(place, ignore_errors=True)
            try:
                _make(place, lock, wheels)
            except BaseException:
                shutil.rmtree(place, ignore_errors=True)
                raise
    except OSError as error:
        raise StorageError(
            f"the virtual environment cannot be written: {error.strerror}",
            details=(f"place: {place}",),
            hint="Free some space, or set REPROBOX_CACHE to a folder that has it.",
        ) from error
    observer.finished("venv", f"{len(lock.packages)} packages, Python {lock.python}")
    return place


def _is_complete(place: Path) -> bool:
    # The interpreter is a link to the system's, which an upgrade of the system may take away.
    return (place / _COMPLETE).is_file() and os.access(place / "bin" / "python", os.X_OK)


def _make(place: Path, lock: Lock, wheels: Mapping[str, Path]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    # On the same file system, so that what uv unpacks there is linked and not copied; and only for this environment, so
    # that a program which writes into its packages cannot spoil another's.
    with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as name:
        private = Path(name)
        running = f"{sys.version_info.major}.{sys.version_info.minor}"
        # The interpreter that runs reprobox is surely there, even where it is on no PATH.
        interpreter = sys.executable if lock.python == running else lock.python
        said = _uv(private, "venv", "--python", interpreter, "--no-project", str(place))
        if said is not None:
            raise EngineError(
                f"no Python {lock.python} for the local engine was found on this machine",
                details=tuple(said.splitlines()[-5:]),
                hint=f"Install Python {lock.python} (for instance `sudo apt install python{lock.python} "
                f"python{lock.python}-venv`), or use the docker engine, which brings its own.",
            )
        if lock.packages:
            requirements = private / "requirements.txt"
            requirements.write_text(
                "".join(
                    f"{package.name} @ {wheels[package.sha256].absolute().as_uri()} --hash=sha256:{package.sha256}\n"
                    for package in lock.packages
                ),
                encoding="utf-8",
            )
            said = _uv(
                private,
                *("pip", "install", "--python", str(place / "bin" / "python")),
                *("--no-index", "--no-deps", "--no-build", "--require-hashes"),
                *("--link-mode", "hardlink", "--compile-bytecode", "--requirements", str(requirements)),
            )
            if said is not None:
                raise EngineError(
                    "the locked wheels cannot be installed for the local engine",
                    details=tuple(said.splitlines()[-10:]),
                    hint="A lock made for another system may not fit this one: use the docker engine.",
                )
    (place / _COMPLETE).write_text(f"{lock.digest}\n", encoding="utf-8")


def _uv(private: Path, *arguments: str) -> str | None:
    """Run uv with `private` as its cache and none of the user's settings; return what it said if it failed."""
    import uv  # its search for the binary reads sysconfig, which the command line's start can do without

    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    environment = {**kept, "UV_CACHE_DIR": str(private / "uv"), "LANG": "C.UTF-8"}
    common = ("--offline", "--no-config", "--no-python-downloads", "--no-progress", "--color", "never")
    try:
        done = subprocess.run(
            [uv.find_uv_bin(), *arguments, *common],
            cwd=private,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
    except OSError as error:
        raise EngineError(
            f"uv, which makes virtual environments, cannot be started: {error}", hint=_REINSTALL
        ) from error
    return None if done.returncode == 0 else done.stderr.decode(errors="replace")
