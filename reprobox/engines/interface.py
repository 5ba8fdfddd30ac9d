"""What an engine is: something that executes a Plan and leaves nothing behind. It knows nothing of manifests."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class DataMount:
    """One data file or folder: `source` on this machine appears read-only at `target`, relative to the work folder."""

    source: Path
    target: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything an engine needs to execute one training program.

    All paths are on this machine; the engine decides where the program sees them. `work` is writable and the current
    folder, `record` is writable and where the runtime writes, `site` holds the runtime (`reprobox/runtime/`); the
    engine adds the start files to it (see `start_file.py`) and lets the program only read it. The engine itself
    sets `PATH`, `HOME` and `TMPDIR` as the program sees them; `env` holds everything else, and nothing of the
    caller's environment leaks in beside it. `environment` is the engine's name for what `prepare` made: an image ID
    or the path of a virtual environment. `start_points` are where the Pythons of an image look for start files: a
    path that ends in `.zip` for the folder with the start file, one that ends in `.pth` for that file. `pythonpath`
    are folders in `work` that become the program's PYTHONPATH. `memory` and `shm` are bytes; `gpus` is `none`,
    `all` or indices (`0,1`).
    """

    run_id: str
    command: tuple[str, ...]
    environment: str
    work: Path
    record: Path
    site: Path
    env: Mapping[str, str] = field(default_factory=dict)
    start_points: tuple[str, ...] = ()
    pythonpath: tuple[str, ...] = ()
    data: tuple[DataMount, ...] = ()
    gpus: str = "none"
    cpus: int | None = None
    memory: int | None = None
    shm: int | None = None
    network: bool = False


def pythonpath(folders: Sequence[str], work: str) -> dict[str, str]:
    """Return the variable by which Python looks in these folders, each relative to the folder `work`, if there are any.

    Nothing of the image's own is kept: the modules that a program finds must not depend on it.
    """
    places = [posixpath.normpath(posixpath.join(work, folder)) for folder in folders]
    return {"PYTHONPATH": ":".join(places)} if places else {}


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """The engine as recorded: `kind` is its name, `version` its own, `gpu_access` how GPUs reach the program.

    `version` begins with a name where another product than `kind` answers in its stead: `podman 4.3.1`.
    """

    kind: str
    version: str
    gpu_access: str = "none"

    @property
    def product(self) -> str:
        """Name and version of what runs the programs: `docker 20.10.24`, `podman 4.3.1`."""
        return self.version if " " in self.version else f"{self.kind} {self.version}"


class Execution(Protocol):
    """One program under way.

    `note` is None until it is known why a program was cut off or never began: `killed: out of memory (limit 8 GiB)`.
    `top` is the process of this machine that is, or is above, all processes of the program; 0 where they ended before
    it was asked for, None where it is not known, as on an engine elsewhere.
    """

    note: str | None
    top: int | None

    def pump(self, output: Callable[[str, bytes], None], tick: Callable[[], None], interval: float = 0.2) -> int:
        """Pass on what the program writes (`stdout` or `stderr`, bytes) until it ends; return its exit status.

        `tick` is called about every `interval` seconds in the caller's thread and may raise to end the program early.
        Raises EngineError when the engine dies under the program. A death by signal N is returned as 128 + N.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Left:
    """What is left of a program whose reprobox has died: its `name` on the engine, whether it is `running`, and its
    exit status once it has ended.
    """

    name: str
    running: bool
    exit_code: int | None


class Engine(Protocol):
    """A place where programs run; `name` is the key in `engines.ENGINES`."""

    name: str

    def info(self) -> EngineInfo:
        """Say what this engine is. Raises EngineUnavailableError when it does not answer."""
        ...

    def limits_ignored(self, plan: Plan) -> tuple[str, ...]:
        """Say which limits of `plan` this engine cannot keep, a sentence each, for warnings."""
        ...

    def start(self, plan: Plan) -> AbstractContextManager[Execution]:
        """Start the program. On leaving the context whatever was started is gone, whichever way it is left."""
        ...

    def left_of(self, run_id: str) -> Left | None:
        """Say what is left of the program of a run whose reprobox has died, None where nothing is."""
        ...

    def sweep(self) -> list[str]:
        """Remove what killed reprobox processes left behind; return the names of what was removed."""
        ...
