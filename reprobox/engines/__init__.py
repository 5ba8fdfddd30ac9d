"""Engines: the places where programs run, by name."""

from __future__ import annotations

from collections.abc import Callable

from reprobox.engines.interface import Engine
from reprobox.errors import EngineUnavailableError, UsageError


def _docker(keep_running: bool) -> Engine:
    # The docker SDK takes a while to import, and only this engine needs it.
    from reprobox.engines.docker import ORPHAN_SECONDS, DockerEngine

    return DockerEngine(orphan_seconds=None if keep_running else ORPHAN_SECONDS)


def _local(keep_running: bool) -> Engine:
    from reprobox.engines.local import LocalEngine

    if keep_running:
        raise UsageError(
            "the local engine's programs end with reprobox, so it cannot keep one running",
            details=("a program that writes to a reprobox that is not there any more would end anyhow",),
            hint="leave out --keep-running, or use Docker",
        )
    return LocalEngine()


ENGINES: dict[str, Callable[[bool], Engine]] = {"docker": _docker, "local": _local}
"""Makes an engine, in order of preference. The argument says whether its programs may outlive a reprobox that dies.

Raises EngineUnavailableError when it does not answer, UsageError when it cannot do what is asked.
"""


def open_engine(name: str, *, keep_running: bool = False) -> Engine:
    """Return the engine called `name`; with `keep_running` its programs go on to their end though reprobox is killed.

    Raises UsageError when there is none of that name or it cannot do that, EngineUnavailableError when it does not
    answer.
    """
    factory = ENGINES.get(name)
    if factory is None:
        raise UsageError(f"there is no engine called {name!r}", details=(f"expected: {' or '.join(ENGINES)}",))
    return factory(keep_running)


def choose_engine(wanted: str | None, *, keep_running: bool = False) -> tuple[Engine, str | None]:
    """Return the engine to use and, where it is not the preferred one and nobody asked for it, the reason.

    Without a wish it is docker if an engine answers, else local; the reason is meant for screen and manifest. An
    engine that is wished for and does not answer is an error (EngineUnavailableError), never replaced; nor is docker
    where `keep_running` (see `open_engine`) asks for what it alone can do.
    """
    if wanted is not None:
        return open_engine(wanted, keep_running=keep_running), None
    try:
        return open_engine("docker", keep_running=keep_running), None
    except EngineUnavailableError as error:
        if keep_running:
            raise
        return open_engine("local"), error.message
