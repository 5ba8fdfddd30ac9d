"""`reprobox image build`: the image alone."""

from __future__ import annotations

from pathlib import Path

from reprobox.progress import Observer
from reprobox.spec import RunSpec
from reprobox.workflow.environment import Environment, prepare


def build_image(spec: RunSpec, project: Path, *, cache: Path, observer: Observer) -> Environment:
    """Lock the project's requirements, assemble the image and load it into the docker engine.

    Raises EngineUnavailableError without one, and what `prepare` raises.
    """
    from reprobox.engines import open_engine

    return prepare(open_engine("docker"), spec, project, cache=cache, observer=observer)
