"""Warns when a training goes on for many epochs in fast mode, whose results cannot be had again on a GPU."""

from __future__ import annotations

import sys
import weakref
from typing import Any, Callable

from . import hooks

LIMIT = 5


def watch(module: Any, warn: Callable[[str], None]) -> None:
    """Patch `torch.utils.data.dataloader`, given as `module`: call `warn` when a loader begins its sixth epoch.

    Counted is how often one loader was iterated with gradients on, so that evaluation does not count; deterministic
    algorithms that the program switched on itself are respected.
    """
    counts: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
    original = module.DataLoader.__iter__

    def count(self: Any) -> None:
        torch = sys.modules["torch"]
        if torch.is_grad_enabled():
            counts[self] = counts.get(self, 0) + 1
            if counts[self] == LIMIT + 1 and not torch.are_deterministic_algorithms_enabled():
                warn(
                    "more than %d epochs were trained in fast mode: on a GPU nobody, you included, will get these "
                    "losses again; set `deterministic: true` for results that count" % LIMIT
                )

    module.DataLoader.__iter__ = hooks.preceded(original, count)
