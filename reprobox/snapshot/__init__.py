"""What goes in and what comes out, by content: the code tree, the data trees, the outputs.

The names are loaded when first used, so that importing a part of this room costs no more than that part.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reprobox.snapshot.archive import pack_archive, restore_code
    from reprobox.snapshot.code import CodeSnapshot, snapshot_code
    from reprobox.snapshot.data import check_data, hash_data, hash_outputs

__all__ = [
    "CodeSnapshot",
    "check_data",
    "hash_data",
    "hash_outputs",
    "pack_archive",
    "restore_code",
    "snapshot_code",
]

_HOMES = {
    "CodeSnapshot": "code",
    "check_data": "data",
    "hash_data": "data",
    "hash_outputs": "data",
    "pack_archive": "archive",
    "restore_code": "archive",
    "snapshot_code": "code",
}


def __getattr__(name: str) -> Any:
    """Load a public name from the module that holds it (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
