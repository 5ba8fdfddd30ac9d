"""RunPaths: where everything of one run lies."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reprobox.errors import StorageError, UsageError


@dataclass(frozen=True, kw_only=True)
class RunPaths:
    """One run's folder. `work` is the code as it ran, with what the program wrote; `record` what the runtime wrote."""

    root: Path

    @property
    def id(self) -> str:
        """The run's name: its folder's."""
        return self.root.name

    @property
    def manifest(self) -> Path:
        """The artefact."""
        return self.root / "manifest.yaml"

    @property
    def begun(self) -> Path:
        """The run as it began; there as long as there is no manifest."""
        return self.root / "begun.yaml"

    @property
    def receipt(self) -> Path:
        """The outcome of a replay; runs that are no replay have none."""
        return self.root / "receipt.yaml"

    @property
    def log(self) -> Path:
        """All that the program wrote, standard output and standard error as they came."""
        return self.root / "log.txt"

    @property
    def lock(self) -> Path:
        """The lock as hash-pinned requirements, which pip and uv install too."""
        return self.root / "requirements.lock"

    @property
    def wheels(self) -> Path:
        """The wheels that no index offers; there only where an environment was captured that held some."""
        return self.root / "wheels"

    @property
    def archive(self) -> Path:
        """The code as one compressed tar."""
        return self.root / "code.tar.xz"

    @property
    def columns(self) -> Path:
        """What of the record is too long for the manifest, each file named by its sha256; seldom there."""
        return self.root / "trajectory"

    @property
    def work(self) -> Path:
        """The program's working folder."""
        return self.root / "work"

    @property
    def record(self) -> Path:
        """The raw record, as the runtime wrote it."""
        return self.root / "record"

    @property
    def site(self) -> Path:
        """The runtime as the program imports it; there only while the program runs."""
        return self.root / ".site"

    def losses(self, stream: int = 0) -> Path:
        """The losses of one process, for people and spreadsheets: step, bits, decimal."""
        return self.root / ("losses.tsv" if stream == 0 else f"losses-{stream:03d}.tsv")


def create_run(parent: Path, name: str) -> RunPaths:
    """Make the next free folder `NAME-0001`, `NAME-0002`, ... under `parent`. Two processes never get the same one.

    Raises StorageError when the folder cannot be made.
    """
    parent = parent.absolute()
    pattern = re.compile(re.escape(name) + r"-(\d{4,})")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        taken = [int(match[1]) for path in parent.iterdir() if (match := pattern.fullmatch(path.name))]
        number = max(taken, default=0) + 1
        while True:
            root = parent / f"{name}-{number:04d}"
            try:
                root.mkdir()
            except FileExistsError:
                number += 1
                continue
            paths = RunPaths(root=root)
            paths.record.mkdir()
            return paths
    except OSError as error:
        raise storage_error(error, parent) from error


@contextlib.contextmanager
def not_yet_started(paths: RunPaths) -> Iterator[None]:
    """Fill the folder of a run before its program starts. When that fails nothing was recorded, and the folder goes."""
    try:
        yield
    except BaseException:
        shutil.rmtree(paths.root, ignore_errors=True)
        raise


@contextlib.contextmanager
def under_way(paths: RunPaths) -> Iterator[None]:
    """Mark a run as one that this process executes, for as long as the context lasts and this process lives."""
    with paths.begun.open("rb") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def is_under_way(paths: RunPaths) -> bool:
    """Say whether a living process on this machine executes a run. Source: flock(2)."""
    try:
        with paths.begun.open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def unfinished_runs(folder: Path) -> list[RunPaths]:
    """Return the runs below a folder whose reprobox was killed: they began, have no manifest, and nobody is at them."""
    try:
        found = sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []
    runs = [RunPaths(root=path) for path in found]
    return [one for one in runs if one.begun.is_file() and not one.manifest.exists() and not is_under_way(one)]


def find_manifest(path: Path) -> Path:
    """Return the manifest that `path` names: the file itself, or the one in that run folder.

    Raises UsageError when there is none.
    """
    if path.is_dir():
        inside = path / "manifest.yaml"
        if inside.is_file():
            return inside
        if RunPaths(root=path).begun.is_file():
            raise UsageError(
                f"the run in {path} was never finished, so it has no manifest",
                hint=f"reprobox recover {shlex.quote(str(path))} makes one of what it recorded, once it does not run "
                "any more",
            )
        raise UsageError(f"no manifest.yaml in {path}", hint="name a run's folder (runs/NAME-0001) or a manifest.yaml")
    if not path.exists():
        raise UsageError(f"no such file: {path}", hint="name a run's folder (runs/NAME-0001) or a manifest.yaml")
    return path


def refuse_to_replace(path: Path, *, force: bool) -> None:
    """Raise UsageError when something lies at `path`, unless the user said that it may be replaced."""
    if path.exists() and not force:
        raise UsageError(f"{path} is there already", hint="--force replaces it")


def storage_error(error: OSError, where: Path) -> StorageError:
    """Put an operating system's refusal to write below `where` into words."""
    place = error.filename or where
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"no space left for {place}", hint="free some space and run again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageError(
            f"not allowed to write {place}", hint="check whose folder it is, or use another project folder"
        )
    return StorageError(f"cannot write {place}: {error.strerror or error}")
