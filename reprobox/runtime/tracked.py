"""The optimizers of a process: what each optimizes, and the digest of what it arrived at."""

from __future__ import annotations

from typing import Any, Callable

# Tells living objects apart, as `id` does, whose calls audit hooks are told of.
_key = object.__hash__


class Tracked:
    """The parameters of one optimizer, numbered as first seen, until their digest is taken.

    `steps` counts its steps, `blind` those of them since whose predecessor no loss was seen; `training` is the number
    of the first optimizer with which it has a parameter in common.
    """

    def __init__(self, ordinal: int, kind: str) -> None:
        """Track optimizer number `ordinal` of that type, or parameters that none optimizes."""
        self.ordinal = self.training = ordinal
        self.kind = kind
        self.digest: str | None = None
        self.settled = False
        self.steps = 0
        self.blind = 0
        self.losses = 0
        # The optimizer's own list, which says what it optimizes now: programs replace parameters in it.
        self.groups: list[Any] = []
        self._known: list[int] = []

    @property
    def parameters(self) -> list[Any]:
        """What is optimized, in order."""
        return [parameter for group in self.groups for parameter in group["params"]]

    def changed(self) -> bool:
        """Say whether other parameters are optimized than at the last call."""
        known, self._known = self._known, [_key(parameter) for parameter in self.parameters]
        return known != self._known

    def settle(self) -> None:
        """Take the digest, once, and let the parameters go."""
        if not self.settled:
            from .weights import digest_tensors

            self.settled = True
            parameters, self.groups = self.parameters, []
            self.digest = digest_tensors(parameters)


class Owners:
    """Which training each parameter belongs to. Holds no parameter, not even weakly (see modules.py)."""

    def __init__(self) -> None:
        """Know of none."""
        # By name, or by key for as long as its optimizer holds a parameter that no module knows.
        self._trainings: dict[Any, int] = {}

    def join(self, tracked: Tracked, name_of: Callable[[Any], str | None]) -> None:
        """Give an optimizer's parameters the training of the first one that is known, or its own."""
        keys = [name_of(parameter) or _key(parameter) for parameter in tracked.parameters]
        known = [self._trainings[key] for key in keys if key in self._trainings]
        tracked.training = min([tracked.training, *known])
        self._trainings.update((key, tracked.training) for key in keys)

    def forget(self, tracked: Tracked) -> None:
        """Forget what is known by key alone, which another tensor may have once an optimizer lets go of this one."""
        for parameter in tracked.parameters:
            self._trainings.pop(_key(parameter), None)
