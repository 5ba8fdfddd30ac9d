"""Engines: the places where programs run, by name."""

from __future__ import annotations

from collections.abc import Callable

from reprobox.engines.interface import Engine
from reprobox.errors import EngineUnavailableError, UsageError


def _docker() -> Engine:
    # The docker SDK takes a while to import, and only this engine needs it.
    from reprobox.engines.docker import DockerEngine

    return DockerEngine()


def _local() -> Engine:
    from reprobox.engines.local import LocalEngine

    return LocalEngine()


ENGINES: dict[str, Callable[[], Engine]] = {"docker": _docker, "local": _local}
"""Makes an engine; raises EngineUnavailableError when it does not answer. In order of preference."""


def open_engine(name: str) -> Engine:
    """Return the engine called `name`.

    Raises UsageError when there is none of that name, EngineUnavailableError when it does not answer.
    """
    factory = ENGINES.get(name)
    if factory is None:
        raise UsageError(f"there is no engine called {name!r}", details=(f"expected: {' or '.join(ENGINES)}",))
    return factory()


def choose_engine(wanted: str | None) -> tuple[Engine, str | None]:
    """Return the engine to use and, where it is not the preferred one and nobody asked for it, the reason.

    Without a wish it is docker if an engine answers, else local; the reason is meant for screen and manifest. An
    engine that is wished for and does not answer is an error (EngineUnavailableError), never replaced.
    """
    if wanted is not None:
        return open_engine(wanted), None
    try:
        return open_engine("docker"), None
    except EngineUnavailableError as error:
        return open_engine("local"), error.message
