"""Notices the calls of a built-in function without standing between it and its caller."""

from __future__ import annotations

import contextlib
import sys
from types import FrameType
from typing import Any, Callable

from . import callers


class Observed:
    """Stands for a built-in function and notices its calls, without a frame of its own in the user's traceback.

    Calling an instance makes Python look up `__call__`, a property that takes note and returns the function itself,
    which Python then calls. It equals the function and hashes like it, because `os.supports_fd` and the like hold it.
    """

    def __init__(self, original: Any, note: Callable[[FrameType], None]) -> None:
        """Call `note(frame of the caller)` before each call of `original`; what `note` raises is dropped."""
        self.__wrapped__ = original
        self._note = note
        self.__doc__ = original.__doc__

    @property
    def __call__(self) -> Any:
        """Take note and return the function. (A property on purpose, see the class.)"""
        with contextlib.suppress(Exception):  # an audit that fails must not end the training
            self._note(callers.calling_frame(1))
        return self.__wrapped__

    def __getattr__(self, name: str) -> Any:
        """Look like the function."""
        if name == "__wrapped__":
            raise AttributeError(name)  # before __init__, as for a copy
        return getattr(self.__wrapped__, name)

    def __eq__(self, other: object) -> bool:
        """Equal the function."""
        return other is self or other == self.__wrapped__

    def __hash__(self) -> int:
        """Hash like the function."""
        return hash(self.__wrapped__)

    def __repr__(self) -> str:
        """Print like the function."""
        return repr(self.__wrapped__)

    def __reduce__(self) -> Any:
        """Be pickled by name, as functions are."""
        return _function, (self.__wrapped__.__module__, self.__wrapped__.__name__)


def _function(module: str, name: str) -> Any:
    return getattr(sys.modules[module], name)
