"""Knows the modules of a process: the names of their parameters, and the state with which trained modules end.

Modules make themselves known as parameters and modules are registered in them, and as a copy or an unpickled module is
given its state (`torch.nn.Module.__setstate__`). A module is known by a weak reference alone. Of tensors nothing is
held, not even a weak reference: torch refuses to convert parameters of some kinds that have any
(`torch.utils.swap_tensors`). What a module holds when it goes is learnt from `torch.nn.Module.__del__`, while it still
holds it. A callback of a weak reference would come too late: the garbage collector clears all weak references into a
cycle before it calls one. And what is held for the callback's sake may keep a whole model alive, such as a parameter
with a hook that knows the model.

Not known are copies of a module whose class overrides `__setstate__` or `__deepcopy__` without calling the one of
`torch.nn.Module`, until something is registered in them, or they in another module.
"""

from __future__ import annotations

import functools
import gc
import os
import sys
import threading
import weakref
from typing import Any, Callable, Iterable, Iterator, NamedTuple, TypeVar, cast

from . import hooks

MOST_ROOTS = 64
_SETTLE_AT = _PRUNE_AT = 4096
# They go around a whole model and hold nothing themselves. What is inside keeps the names that it has in the model.
_WRAPPERS = ("DataParallel", "DistributedDataParallel", "OptimizedModule", "_FabricModule")

# (name, tensor) of parameters or buffers
Entries = list[tuple[str, Any]]
# How a module is built: the name of its class, and a hash of the names and shapes of its entries.
_Build = tuple[str, int]
_Method = TypeVar("_Method", bound=Callable[..., Any])

# Tells living objects apart, as `id` does, whose calls audit hooks are told of. What a class makes of __hash__ is left
# aside.
_key = object.__hash__


class _Known(NamedTuple):
    """A module: when it was noted, the name of its class, and its number among all modules of that name."""

    module: weakref.ref[Any]
    noted: int
    kind: str
    number: int


class _Named:
    """A parameter: the module that holds it, as what, and its whole name."""

    __slots__ = ("given", "module", "name", "own")

    def __init__(self, module: Any, own: str, name: str) -> None:
        self.module = weakref.ref(module)
        self.own = own
        self.name = name
        self.given = False


class _Root:
    """A watched root, and by key what was found in it: a weak reference and the prefixes of its entries' names.

    It stays until the last of these modules is gone or belongs to another root. `original` is the root from which it
    holds a copy, None when it is optimized itself; `free` are the names of its copies that are gone, by their build.
    """

    __slots__ = ("build", "free", "module", "name", "original", "places")

    def __init__(self, module: Any, name: str, build: _Build, original: _Root | None) -> None:
        self.module = weakref.ref(module)
        self.name = name
        self.build = build
        self.original = original
        self.free: dict[_Build, list[str]] = {}
        self.places: dict[int, tuple[weakref.ref[Any], list[str]]] = {}


def _harmless(instead: Callable[[], Any]) -> Callable[[_Method], _Method]:
    """Have a method that fails warn and return `instead()`."""

    def decorate(method: _Method) -> _Method:
        @functools.wraps(method)
        def guarded(self: Modules, *args: Any) -> Any:
            try:
                return method(self, *args)
            except Exception as error:
                self._failed(error)
                return instead()

        return cast(_Method, guarded)

    return decorate


class Modules:
    """The modules of this process. Whatever fails inside becomes a warning and reaches no program.

    A root is a module that is in no other, but for wrappers such as DataParallel's. Its name is that of its class, with
    its number among all modules of that class made so far where it is not the first: `Net`, `Net#2`. The names of
    entries are those of `state_dict()`, after the root's: `Net.layers.0.weight`.
    """

    def __init__(self, torch: Any, warn: Callable[[str], None] = lambda text: None) -> None:
        """Hook into torch. `warn` is told what is missed.

        `on_gone(name of a root, entries)`, to be set, is told what watched modules hold as they go: each module by
        itself, in whichever order they go. Where an entry comes again, here or from `states`, the later one counts. It
        may be called in any thread at any point, as a garbage collection may, and must keep no tensor.
        """
        self.warn = warn
        self.on_gone: Callable[[str, Entries], None] = lambda name, entries: None
        self._torch = torch
        # What was registered in or restored since the last `_settle`, and how much was before.
        self._pending: list[tuple[weakref.ref[Any], str]] = []
        self._settled = 0
        # By the key of the weak reference, of which a living module has one, in the order in which they were noted.
        self._known: dict[int, _Known] = {}
        self._prune_at = _PRUNE_AT
        self._made: dict[str, int] = {}
        self._begin()
        self._heard: weakref.WeakSet[type] = weakref.WeakSet()
        self._set_hooks()
        # True while Python's collector is at work, in whatever thread: when it comes is chance.
        self._collecting = False
        gc.callbacks.append(self._on_collection)
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        """Name and watch nothing yet: at first, and in a forked child, whose record is its own."""
        self._settling = threading.Lock()
        self._names: dict[int, _Named] = {}
        self._roots: list[_Root] = []
        self._root_of: dict[int, _Root] = {}
        self._builds: dict[_Build, _Root] = {}
        self._beyond: set[int] = set()
        # Keys of the parameters of optimized roots, as of `_watched_at`.
        self._optimized: set[int] = set()
        # Up to which of the modules noted that was last done.
        self._named_at = self._given_at = self._looked_at = self._watched_at = 0

    @property
    def beyond(self) -> int:
        """How many modules were not watched because too many were."""
        return len(self._beyond)

    @property
    def fresh(self) -> bool:
        """True when modules or parameters were noted since the last call of `new_parameters`."""
        return self._given_at != self._settled + len(self._pending)

    @_harmless(list)
    def new_parameters(self) -> Entries:
        """Return (name, parameter) of all trainable parameters that no earlier call returned, root by root.

        Modules in garbage that has not been collected are among them.
        """
        new = []
        found = self._name_all()
        now = self._named_at
        for named, parameter in found:
            if _is_lazy(parameter):
                now = -1  # it will be made in place, which registers nothing
            elif not named.given and _is_trainable(parameter):
                named.given = True
                new.append((named.name, parameter))
        self._given_at = now
        return new

    @_harmless(list)
    def places(self) -> list[tuple[weakref.ref[Any], str, Any]]:
        """Return every parameter that is known, root by root, with its module and its name in that."""
        return [(named.module, named.own, parameter) for named, parameter in self._name_all()]

    @_harmless(lambda: None)
    def name_of(self, parameter: Any) -> str | None:
        """Return the name by which a parameter was first known; None for a tensor that belongs to no known module."""
        named = self._named(parameter)
        if named is None and self._named_at != self._settle():
            self._name_all()
            named = self._named(parameter)
        return None if named is None else named.name

    @_harmless(lambda: None)
    def watch(self, parameters: Iterable[Any]) -> None:
        """Watch the roots that hold any of these parameters from now on, and what is built like they are.

        What a root shares with one that was watched before is said of the later one alone.
        """
        now = self._settle()
        wanted = {_key(parameter) for parameter in parameters}
        if now == self._watched_at and wanted <= self._optimized:
            return  # as where each parameter has an optimizer of its own
        self._watched_at, self._optimized = now, set()
        for module in self._outermost():
            inside = self._walk(module, set())
            held = {_key(parameter) for _, each in inside for _, parameter in self._items(each, "_parameters")}
            if not held.isdisjoint(wanted):
                self._watch(module, None)
            if any(root.module() is module and root.original is None for root in self._roots):
                self._optimized |= held
        self.look_for_copies()

    @_harmless(lambda: None)
    def look_for_copies(self) -> None:
        """Watch the roots of modules that came up since the last look and are built like a watched root, or like a
        trainable module in one that is more than a single layer of torch's: copies, moving averages, target networks.

        Built alike are modules of one class whose entries have the same names and shapes; their dtypes may differ.
        """
        if not self._builds or (self._looked_at == self._settled and not self._pending):
            return
        since, self._looked_at = self._looked_at, self._settle()
        self._look_into_roots()
        alike = {}
        for known in list(self._known.values()):
            module = known.module() if known.noted > since else None
            if module is not None and _key(module) not in self._root_of:
                build, layers, _ = self._build(module, {})
                original = self._builds.get((type(module).__name__, build))
                if layers and original is not None:
                    alike[_key(module)] = original
        for root in self._outermost() if alike else ():
            originals = [alike[_key(each)] for _, each in self._walk(root, set()) if _key(each) in alike]
            if originals:
                self._watch(root, originals[0])

    @_harmless(list)
    def states(self) -> list[tuple[str, Entries]]:
        """Return name and persistent entries of the watched roots, as far as their modules are alive."""
        self.look_for_copies()
        self._look_into_roots()
        if self._beyond:
            self.warn(
                "more than %d modules were trained or copied at one time: the final state of %d was not recorded"
                % (MOST_ROOTS, len(self._beyond))
            )
        found = []
        for root in list(self._roots):
            entries: Entries = []
            for known, prefixes in list(root.places.values()):
                module = known()
                if module is not None:
                    entries += self._of(module, prefixes)
            if entries:
                found.append((root.name, entries))
        return found

    def __reduce__(self) -> Any:
        """Be nothing where a class whose `__del__` was hooked is pickled by value, as cloudpickle does."""
        return Modules.__new__, (Modules,)

    # Noting modules

    @_harmless(lambda: None)
    def _set_hooks(self) -> None:
        base, pending, reference = self._torch.nn.Module, self._pending, weakref.ref

        def note(module: Any, *_: Any) -> None:
            # All else is left for later: models of many modules are not to take noticeably longer to make.
            try:
                pending.append((reference(module), type(module).__name__))
                if len(pending) >= _SETTLE_AT:
                    self._settle()
            except Exception as error:
                self._failed(error)

        # Not those of buffers, which some modules assign anew in each forward pass.
        for kind in ("parameter", "module"):
            register = getattr(self._torch.nn.modules.module, "register_module_%s_registration_hook" % kind, None)
            if register is not None:
                register(note)
        base.__setstate__ = hooks.followed(base.__setstate__, note)
        scripted = getattr(getattr(self._torch, "jit", None), "RecursiveScriptModule", None)
        if scripted is not None:  # its parts are registered in C++
            scripted.__init__ = hooks.followed(scripted.__init__, note)

        def gone(module: Any) -> None:
            if self._root_of:
                self._gone(module)
            # A class may have bases that come after Module. Most have none, and looking takes longer than all the rest.
            if type(module).__mro__[-2] is not base:
                others = getattr(super(base, module), "__del__", None)
                if others is not None:
                    others()

        base.__del__ = hooks.preceded(base.__del__, self._gone) if hasattr(base, "__del__") else gone
        self._heard.add(base)
        for function in (note, gone, base.__setstate__):
            hooks.keep_compiler_away(self._torch, function)

    def _settle(self) -> int:
        """Take in what is pending, and return how often something was noted until now."""
        if self._settling.acquire(blocking=False):  # otherwise another thread does it
            try:
                batch = self._pending[:]
                for noted, (module, kind) in enumerate(batch, self._settled + 1):
                    if _key(module) not in self._known:
                        self._made[kind] = number = self._made.get(kind, 0) + 1
                        self._known[_key(module)] = _Known(module, noted, kind, number)
                self._settled += len(batch)
                del self._pending[: len(batch)]
                if len(self._known) >= self._prune_at:
                    self._prune()
            finally:
                self._settling.release()
        return self._settled

    def _prune(self) -> None:
        for key, known in list(self._known.items()):
            if known.module() is None:
                del self._known[key]
        self._prune_at = max(_PRUNE_AT, 2 * len(self._known))

    # Looking into modules

    def _items(self, module: Any, part: str) -> Entries:
        """Return the items of `_parameters`, `_buffers` or `_modules` of a module, whatever its class makes of them."""
        found = object.__getattribute__(module, "__dict__").get(part)
        return list(found.items()) if found else []

    def _children(self, module: Any) -> Entries:
        base = self._torch.nn.Module
        return [item for item in self._items(module, "_modules") if isinstance(item[1], base)]

    def _own(self, module: Any) -> Entries:
        """Return the persistent entries of a module that are not its children's."""
        hidden = object.__getattribute__(module, "__dict__").get("_non_persistent_buffers_set", ())
        found = self._items(module, "_parameters")
        found += [item for item in self._items(module, "_buffers") if item[0] not in hidden]
        tensor = self._torch.Tensor
        return [(own, each) for own, each in found if isinstance(each, tensor) and not _is_lazy(each)]

    def _of(self, module: Any, prefixes: list[str]) -> Entries:
        return [(prefix + own, each) for prefix in prefixes for own, each in self._own(module) if not each.is_meta]

    def _walk(self, root: Any, seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
        """Yield (prefix, module) of a module and all in it, in the order of `state_dict()`; with `seen` each once."""
        waiting: list[tuple[str, Any, tuple[int, ...]]] = [("", root, ())]
        while waiting:
            prefix, module, above = waiting.pop()
            key = _key(module)
            if key in (above if seen is None else seen):
                continue
            if seen is not None:
                seen.add(key)
            yield prefix, module
            above = (*above, key)
            waiting += [(prefix + name + ".", child, above) for name, child in reversed(self._children(module))]

    def _outermost(self) -> list[Any]:
        """Return the living modules that are in no other but a wrapper, in the order in which they were noted."""
        found = [module for module in (known.module() for known in list(self._known.values())) if module is not None]
        parents: dict[int, set[int]] = {}
        seen: set[int] = set()
        for each in found:
            for _, module in self._walk(each, seen):
                for _, child in self._children(module):
                    parents.setdefault(_key(child), set()).add(_key(module))
        tops = [each for each in found if _key(each) not in parents]
        for each in tops:  # which grows meanwhile
            for _, child in self._children(each) if self._is_wrapper(each) else ():
                left = parents[_key(child)]
                if left == {_key(each)}:
                    tops.append(child)
                left.discard(_key(each))
        order = {_key(each): at for at, each in enumerate(found)}
        return sorted(
            [each for each in tops if not self._is_wrapper(each)], key=lambda each: order.get(_key(each), len(order))
        )

    def _is_wrapper(self, module: Any) -> bool:
        return type(module).__name__ in _WRAPPERS and not self._own(module)

    # Naming

    def _label(self, module: Any) -> str:
        key = _key(weakref.ref(module))
        if key not in self._known:  # it is in a wrapper, but was made in an unusual way
            self._pending.append((weakref.ref(module), type(module).__name__))
            self._settle()
        known = self._known[key]
        return known.kind if known.number == 1 else "%s#%d" % (known.kind, known.number)

    def _name_all(self) -> list[tuple[_Named, Any]]:
        """Name the parameters of all modules, root by root, and return them; those that have a name keep it."""
        now = self._settle()
        names: dict[int, _Named] = {}
        found = []
        seen: set[int] = set()
        for root in self._outermost():
            label = self._label(root) + "."
            for prefix, module in self._walk(root, seen):
                for own, parameter in self._items(module, "_parameters"):
                    key = _key(parameter)
                    if parameter is not None and key not in names:
                        named = self._named(parameter) or _Named(module, own, label + prefix + own)
                        names[key] = named
                        found.append((named, parameter))
        self._names = names
        self._named_at = now
        return found

    def _named(self, parameter: Any) -> _Named | None:
        named = self._names.get(_key(parameter))
        module = None if named is None else named.module()
        if named is None or module is None:
            return None
        return named if dict(self._items(module, "_parameters")).get(named.own) is parameter else None

    # Watching

    def _watch(self, module: Any, original: _Root | None) -> None:
        """Watch a root that is optimized, or that holds a copy from a root `original`."""
        builds: dict[int, tuple[int, int, bool]] = {}
        build = (type(module).__name__, self._build(module, builds)[0])
        root = next((each for each in self._roots if each.module() is module), None)
        if root is not None:
            if original is None:
                root.original = None  # a copy may be optimized later
        elif len(self._roots) < MOST_ROOTS:
            # Where a copy is made again and again, as of the best model so far, the latest one counts.
            free = original.free.get(build) if original is not None else None
            root = _Root(module, free.pop(0) if free else self._label(module), build, original)
            self._roots.append(root)
            self._look_into(root, module, take=True)
        else:
            self._beyond.add(_key(module))
            return
        if root.original is None and self._builds.get(build) is not root:
            self._builds[build] = root
            for _, each in self._walk(module, set()):
                inner, layers, trainable = builds[_key(each)]
                if trainable and (layers > 1 or not type(each).__module__.startswith("torch.nn.")):
                    self._builds[type(each).__name__, inner] = root
            self._looked_at = 0  # there may be older copies of what is watched only now

    def _build(self, module: Any, found: dict[int, tuple[int, int, bool]]) -> tuple[int, int, bool]:
        """Return how a module is built, how many modules in it have entries, and whether it has trainable parameters.

        `found` keeps the same of all modules in it, by key.
        """
        key = _key(module)
        if key not in found:
            found[key] = (0, 0, False)  # for a module that has itself inside
            own = self._own(module)
            children = [(name, self._build(child, found)) for name, child in self._children(module)]
            shape = tuple([(name, tuple(each.shape)) for name, each in own])
            # Children without entries do not show in a state.
            inner = tuple([(name, build) for name, (build, layers, _) in children if layers])
            layers = bool(own) + sum(layers for _, (_, layers, _) in children)
            trainable = any(each.requires_grad for _, each in own) or any(each[2] for _, each in children)
            found[key] = (hash((shape, inner)), layers, trainable)
        return found[key]

    def _look_into_roots(self) -> None:
        """Look for what was put into or taken out of the watched roots since."""
        for root in list(self._roots):
            module = root.module()
            if module is not None:
                self._look_into(root, module, take=False)

    def _look_into(self, root: _Root, module: Any, take: bool) -> None:
        """Find the places of all modules in a root, of those of other roots only if it is to `take` them over."""
        places: dict[int, tuple[weakref.ref[Any], list[str]]] = {}
        for prefix, each in self._walk(module):
            key = _key(each)
            if key in places:
                places[key][1].append(prefix)
                continue
            other = self._root_of.get(key)
            if other is not None and other is not root:
                if not take and other.places[key][0]() is each:
                    continue
                self._drop(key)
            places[key] = (weakref.ref(each), [prefix])
            self._root_of[key] = root
            self._hear(type(each))
        for key in list(root.places):
            if key not in places:
                self._root_of.pop(key, None)
        root.places = places
        if not places:
            self._end(root)

    def _hear(self, kind: type) -> None:
        """Have a class that has a `__del__` of its own, which may not call that of Module, say that a module goes."""
        for each in kind.__mro__:
            if "__del__" in vars(each):
                if each not in self._heard:
                    self._heard.add(each)
                    each.__del__ = hooks.preceded(vars(each)["__del__"], self._gone)  # type: ignore[attr-defined]
                return

    def _drop(self, key: int) -> None:
        root = self._root_of.pop(key)
        root.places.pop(key, None)
        if not root.places:
            self._end(root)

    def _end(self, root: _Root) -> None:
        if root in self._roots:
            self._roots.remove(root)
            if root.original is not None and root.original.places and not self._collecting:
                root.original.free.setdefault(root.build, []).append(root.name)

    @_harmless(lambda: None)
    def _gone(self, module: Any) -> None:
        """Say what a watched module holds that is about to go. Called from its `__del__`."""
        root = self._root_of.get(_key(module))
        if root is not None and not sys.is_finalizing():
            hooks.uncompiled(self._take_leave, root, module)

    def _on_collection(self, phase: str, info: Any) -> None:
        self._collecting = phase == "start"

    def _take_leave(self, root: _Root, module: Any) -> None:
        key = _key(module)
        known, prefixes = root.places[key]
        # The garbage collector has cleared all weak references to what goes together.
        if known() is not None and known() is not module:
            return
        self._drop(key)
        if self._collecting and root.original is not None:
            return  # whether a copy in a cycle is there at the end, too, must not depend on when it is collected
        top = root.module()
        if top is None or top is module:
            entries = self._of(module, prefixes)
            if entries:
                self.on_gone(root.name, entries)
        # Otherwise it was taken out of a root that lives on.

    def _failed(self, error: Exception) -> None:
        self.warn("the state of modules is not fully known: %s: %s" % (type(error).__name__, error))


def _is_trainable(parameter: Any) -> bool:
    return bool(parameter.requires_grad) and not parameter.is_meta and not parameter.is_inference()


def _is_lazy(tensor: Any) -> bool:
    """Say whether a parameter or buffer of a lazy module has no shape yet."""
    return hasattr(type(tensor), "cls_to_become")
