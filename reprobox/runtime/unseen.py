"""Notices training that the hooks cannot see, so that it becomes a warning instead of a gap that nobody knows of."""

from __future__ import annotations

import weakref
from typing import Any

_PRUNE_AT = 4096


class Parameters:
    """The parameters of all modules, as they are registered, and which of them changed since training began."""

    def __init__(self, torch: Any) -> None:
        """Watch for parameters from now on."""
        self._known: list[weakref.ref[Any]] = []
        self._versions: list[tuple[weakref.ref[Any], int]] | None = None
        self._prune_at = _PRUNE_AT
        register = getattr(torch.nn.modules.module, "register_module_parameter_registration_hook", None)
        if register is not None:
            register(self._registered)

    def _registered(self, module: Any, name: str, parameter: Any) -> None:
        if parameter is None:
            return
        self._known.append(weakref.ref(parameter))
        if len(self._known) > self._prune_at:
            self._known = [known for known in self._known if known() is not None]
            self._prune_at = max(_PRUNE_AT, 2 * len(self._known))

    def training_begins(self) -> None:
        """Remember, at the first loss or step, how often each parameter was written to; what comes later is training.

        torch counts in-place writes (`Tensor._version`); those through `.data` escape the count.
        """
        if self._versions is None:
            alive = ((known, known()) for known in self._known)
            self._versions = [
                (known, value._version) for known, value in alive if value is not None and _trainable(value)
            ]

    def changed(self) -> list[Any]:
        """Return the parameters, still alive, that training wrote to by its own hand, in order of registration.

        Beside those that torch counted a write to, those that hold a gradient: what uses up gradients without an
        optimizer often writes through `.data`, and a parameter that was left as it was does no harm here.
        """
        pairs = ((known(), version) for known, version in self._versions or ())
        alive = [(value, version) for value, version in pairs if value is not None and _trainable(value)]
        return [value for value, version in alive if value._version != version or value.grad is not None]

    def with_gradients(self) -> int:
        """Count the parameters that hold a gradient."""
        alive = (known() for known in self._known)
        return sum(1 for value in alive if value is not None and value.grad is not None)


def _trainable(value: Any) -> bool:
    return bool(value.requires_grad) and not value.is_inference()
