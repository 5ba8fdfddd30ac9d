"""Nothing is trained in vain: what no manifest bears is refused before the program starts, and once it has ended, what
it recorded is kept whatever happens.
"""

from __future__ import annotations

import contextlib
import shlex
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from reprobox.cache import ensure_room
from reprobox.documents import shown
from reprobox.errors import (
    EXIT_BUG,
    EXIT_ENGINE,
    EXIT_INTERRUPTED,
    ManifestError,
    ReproboxError,
    SpecError,
    StorageError,
    UnrecordedError,
)
from reprobox.manifest.model import Manifest
from reprobox.workflow.execute import Result
from reprobox.workflow.paths import RunPaths, storage_error
from reprobox.workflow.record import Inputs, begun, record_run

# What makes a manifest of what a run's folder keeps.
RECOVER = "reprobox recover"

# Bytes that a run writes before its program does: the runtime, and what it is told.
_ROOM = 1_000_000


def check_recordable(paths: RunPaths, inputs: Inputs) -> Manifest:
    """Record a run that has not been, from all that is known before the program starts; return it, and keep it in the
    run's folder until the run's own manifest is written, so that `reprobox recover` can.

    Written exactly as after a training, so whatever a manifest's rules would refuse then is refused now. Raises
    SpecError for it, StorageError or OSError when there is no room in the run's folder or it cannot be written.
    """
    ensure_room(paths.root, _ROOM, hint="free some space and run again")
    known = begun(paths, inputs)
    with tempfile.TemporaryDirectory(dir=paths.root, prefix=".trial-") as folder:
        trial = RunPaths(root=Path(folder) / paths.id)
        for empty in (trial.work, trial.record):
            empty.mkdir(parents=True)
        try:
            record_run(trial, known, Result(status="interrupted", started=datetime.now(UTC)))
        except ManifestError as error:
            raise SpecError(
                "nothing was trained, because no manifest could be written of it",
                details=(error.message, *error.details),
                hint="change what is named: run and spec are reprobox.yaml and the flags, lock the requirements, "
                "image the base, code and data the project",
            ) from error
        trial.manifest.replace(paths.begun)
    return known


@contextlib.contextmanager
def kept_if_unrecorded(paths: RunPaths) -> Iterator[None]:
    """Write the manifest of a training that has ended inside. Raises UnrecordedError for whatever goes wrong there."""
    try:
        yield
        paths.begun.unlink(missing_ok=True)
    except OSError as error:
        raise _unrecorded(paths, storage_error(error, paths.root).message, EXIT_ENGINE) from error
    except StorageError as error:
        raise _unrecorded(paths, error.message, EXIT_ENGINE, error.details) from error
    except KeyboardInterrupt as error:
        raise _unrecorded(paths, "it was interrupted", EXIT_INTERRUPTED) from error
    except ReproboxError as error:
        # It should have been refused before the training.
        raise _unrecorded(paths, error.message, EXIT_BUG, error.details) from error
    except Exception as error:
        raise _unrecorded(paths, f"{type(error).__name__}: {error}", EXIT_BUG) from error


def _unrecorded(paths: RunPaths, cause: str, exit_code: int, details: tuple[str, ...] = ()) -> UnrecordedError:
    return UnrecordedError(
        f"the training has ended, but its manifest could not be written: {cause}",
        details=(*details, f"all that it recorded is kept in {shown(paths.root)}"),
        hint=f"{RECOVER} {shlex.quote(shown(paths.root))} makes the manifest from it",
        exit_code=exit_code,
    )
