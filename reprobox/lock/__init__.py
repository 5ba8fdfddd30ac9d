"""What is installed: requirements resolved to hash-pinned wheels, and those wheels fetched into the cache.

The functions are loaded when first used, so that `import reprobox.lock` costs nothing when the command line starts.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reprobox.lock.download import fetch_wheels
    from reprobox.lock.export import export_requirements
    from reprobox.lock.model import Lock, LockedPackage
    from reprobox.lock.platforms import platform_for
    from reprobox.lock.requirements import Requirements, find_requirements
    from reprobox.lock.resolution import resolve

__all__ = [
    "Lock",
    "LockedPackage",
    "Requirements",
    "export_requirements",
    "fetch_wheels",
    "find_requirements",
    "platform_for",
    "resolve",
]

_HOMES = {
    "Lock": "model",
    "LockedPackage": "model",
    "Requirements": "requirements",
    "export_requirements": "export",
    "fetch_wheels": "download",
    "find_requirements": "requirements",
    "platform_for": "platforms",
    "resolve": "resolution",
}


def __getattr__(name: str) -> Any:
    """Load a public name from the module that holds it (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
