"""What the parts of the docker engine share: how they ask the daemon, and what they get when it says no.

`engines/docker.py` alone knows the docker SDK; the other parts are given a `Calls`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from reprobox.errors import EngineError, EngineUnavailableError

# How often, and after how long a pause, a removal is tried again that met a container in the middle of something.
_REMOVAL_TRIES = 5
_REMOVAL_PAUSE = 0.5


class DockerRefusedError(EngineError):
    """The daemon answered a request with an error: its HTTP `status`, and `words`, its explanation."""

    def __init__(self, doing: str, *, status: int | None, words: str) -> None:
        """Say that the daemon refused while reprobox was `doing` something."""
        super().__init__(f"the Docker engine refused while {doing}: {words}")
        self.status = status
        self.words = words


class DockerLostError(EngineUnavailableError):
    """The daemon does not answer any more."""


class Calls(Protocol):
    """A connection to a daemon: `api` is the SDK's low-level client, a method for each request of the engine's API."""

    api: Any

    def asking(self, doing: str) -> AbstractContextManager[None]:
        """Turn every error of the SDK inside into a DockerRefusedError or a DockerLostError that names `doing`."""
        ...

    def facts(self) -> Mapping[str, Any]:
        """Return the daemon's answer to `GET /info`, asked once."""
        ...

    def answers(self) -> bool:
        """Say whether the daemon takes new connections still, and not only serves those that it has."""
        ...


def remove(calls: Calls, name: str) -> bool:
    """Kill and remove a container; return whether it is gone.

    Nothing is raised: this runs while other errors are on their way, and what stays behind is swept at the next start.
    """
    for attempt in range(_REMOVAL_TRIES):
        if attempt:
            time.sleep(_REMOVAL_PAUSE)
        try:
            with calls.asking(f"removing the container {name}"):
                calls.api.remove_container(name, force=True, v=True)
            return True
        except DockerRefusedError as error:
            if error.status == 404:
                return True
        except EngineError:
            return False
    return False


@contextlib.contextmanager
def created(calls: Calls, name: str, config: Mapping[str, Any]) -> Iterator[str]:
    """Create a container of that name from a create request's body; it is removed at the end, whatever happens.

    Yields its ID. Raises EngineError. The removal goes by the name, which is known before the daemon answers, so an
    interrupt while it creates leaves nothing either.
    """
    try:
        with calls.asking("creating a container"):
            answer = calls.api.create_container_from_config(dict(config), name=name)
        yield str(answer["Id"])
    finally:
        remove(calls, name)
