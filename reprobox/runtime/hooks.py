"""Calls a function once a module has been imported, without importing it: what the user does not use is not loaded."""

from __future__ import annotations

import contextlib
import functools
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Callable

_waiting: dict[str, list[Callable[[Any], None]]] = {}
_listeners: dict[str, Callable[[Any], None]] = {}


def after_import(name: str, callback: Callable[[Any], None]) -> None:
    """Call `callback(module)` right after module `name` was executed, or now if it already was.

    Several callbacks for one module run in the order in which they were registered. The callback handles its own
    failures: what it raises would reach the user's `import` statement.
    """
    module = sys.modules.get(name)
    if module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False):
        callback(module)
        return
    expect(name)
    _waiting[name].append(callback)


def expect(name: str) -> None:
    """Watch module `name` being imported, so that `after_import` can still be called while it is executed."""
    _waiting.setdefault(name, [])
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def listen(event: str, listener: Callable[[Any], None]) -> None:
    """Call `listener(arguments)` at each audit event of that name; what it raises is dropped. One listener an event.

    One hook serves all of them: Python calls it at every event there is, a call of `id` among them.
    """
    if not _listeners:
        sys.addaudithook(_heard)
    _listeners[event] = listener


def _heard(event: str, arguments: Any) -> None:
    listener = _listeners.get(event)
    if listener is not None:
        with contextlib.suppress(Exception):  # it would keep the program from doing what it wants to do
            listener(arguments)


def stay_first() -> None:
    """From now on have modules watched also where the program puts a finder of its own before all others."""

    def importing(_: Any) -> None:
        if _waiting and sys.meta_path[0] is not _finder:
            if _finder in sys.meta_path:
                sys.meta_path.remove(_finder)
            sys.meta_path.insert(0, _finder)

    listen("import", importing)


def missed(name: str) -> bool:
    """Say whether a module that is waited for was imported without being seen."""
    module = sys.modules.get(name)
    initializing = getattr(getattr(module, "__spec__", None), "_initializing", False)
    return module is not None and not initializing and bool(_waiting.get(name))


class _Finder:
    """Finds nothing itself: lets the other finders find the module, and watches its execution (PEP 451)."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in _waiting:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec: ModuleSpec | None = finder.find_spec(name, path, target)
            if spec is not None:
                _watch(spec)
                return spec
        return None


def _watch(spec: ModuleSpec) -> None:
    loader: Any = spec.loader
    execute = getattr(loader, "exec_module", None)
    if execute is None:
        return

    def exec_module(module: ModuleType) -> None:
        # The loader's own method comes back first, so that a reload or a copied loader never calls us twice.
        del loader.exec_module
        try:
            execute(module)
        except BaseException as error:
            without_own_frame(error)
            raise
        for callback in _waiting.pop(spec.name, ()):
            callback(module)

    with contextlib.suppress(AttributeError):
        # On the instance, not by a wrapper class: inspect, pkgutil and pickle look at the loader's type.
        loader.exec_module = exec_module


def preceded(original: Any, before: Callable[..., None]) -> Any:
    """Return a function that calls `before` with its arguments, drops what that raises, and calls `original`."""

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with contextlib.suppress(Exception):
            before(*args, **kwargs)
        try:
            return original(*args, **kwargs)
        except BaseException as error:
            without_own_frame(error)
            raise

    return wrapper


def followed(original: Any, after: Callable[..., None]) -> Any:
    """Return a function that calls `original` and then `after` with the same arguments, and drops what that raises."""

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            result = original(*args, **kwargs)
        except BaseException as error:
            without_own_frame(error)
            raise
        with contextlib.suppress(Exception):
            after(*args, **kwargs)
        return result

    return wrapper


def uncompiled(function: Callable[..., None], *args: Any) -> None:
    """Call one of our functions unwatched by torch's compiler, which at a graph break watches whatever is called."""
    frames = sys.modules.get("torch._dynamo.eval_frame")
    if frames is None:
        function(*args)
        return
    prior = frames.set_eval_frame(None)
    try:
        function(*args)
    finally:
        frames.set_eval_frame(prior)


def keep_compiler_away(torch: Any, function: Any) -> None:
    """Let torch.compile run a function of ours as it is; what that function calls it may still compile."""
    frames: Any = getattr(getattr(torch._C, "_dynamo", None), "eval_frame", None)
    if hasattr(frames, "skip_code"):
        frames.skip_code(function.__code__)
    elif hasattr(frames, "set_code_exec_strategy"):
        action = frames._FrameAction
        strategy = frames._FrameExecStrategy(action.SKIP, action.DEFAULT)
        frames.set_code_exec_strategy(function.__code__, strategy)


def without_own_frame(error: BaseException) -> None:
    """Take the calling frame out of the traceback of an exception that it is about to pass on by a bare `raise`.

    Python 3.11 and later pass it on with the traceback as it stands now; earlier ones put the frame back.
    """
    if error.__traceback__ is not None:
        error.__traceback__ = error.__traceback__.tb_next


_finder = _Finder()
