"""Notices training that the hooks cannot see, so that it becomes a warning instead of a gap that nobody knows of."""

from __future__ import annotations

import weakref
from typing import Any

from .modules import Modules


class Parameters:
    """The parameters of all modules, and which of them changed since training began."""

    def __init__(self, modules: Modules) -> None:
        """Look at the parameters of these modules. Of a parameter nothing is held (see modules.py)."""
        self._modules = modules
        self._versions: list[tuple[weakref.ref[Any], str, int]] | None = None

    def training_begins(self) -> None:
        """Remember, at the first loss or step, how often each parameter was written to; what comes later is training.

        torch counts in-place writes (`Tensor._version`); those through `.data` escape the count.
        """
        if self._versions is None:
            self._versions = [
                (module, name, value._version) for module, name, value in self._modules.places() if _trainable(value)
            ]

    def changed(self) -> list[Any]:
        """Return the parameters, still alive, that training wrote to by its own hand, module by module.

        Beside those that torch counted a write to, those that hold a gradient: what uses up gradients without an
        optimizer often writes through `.data`, and a parameter that was left as it was does no harm here.
        """
        found = []
        for place, name, version in self._versions or ():
            value = getattr(place(), "_parameters", {}).get(name)
            if value is not None and _trainable(value) and (value._version != version or value.grad is not None):
                found.append(value)
        return found

    def with_gradients(self) -> int:
        """Count the parameters that hold a gradient."""
        return sum(1 for _, _, value in self._modules.places() if value.grad is not None)


def _trainable(value: Any) -> bool:
    return bool(value.requires_grad) and not value.is_inference()
