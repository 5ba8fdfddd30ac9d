"""The record of losses, step by step: read, kept, compared to a verdict, drawn.

The names are loaded when first used, so that importing a part of this room costs no more than that part.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reprobox.trajectory.bits import decimal, value_of
    from reprobox.trajectory.codec import decode_stream, encode_stream, losses_tsv, trajectory_digest
    from reprobox.trajectory.comparison import LiveComparison, compare, compare_outputs
    from reprobox.trajectory.plot import plot_losses
    from reprobox.trajectory.reader import StreamTail, read_streams

__all__ = [
    "LiveComparison",
    "StreamTail",
    "compare",
    "compare_outputs",
    "decimal",
    "decode_stream",
    "encode_stream",
    "losses_tsv",
    "plot_losses",
    "read_streams",
    "trajectory_digest",
    "value_of",
]

_HOMES = {
    "LiveComparison": "comparison",
    "StreamTail": "reader",
    "compare": "comparison",
    "compare_outputs": "comparison",
    "decimal": "bits",
    "decode_stream": "codec",
    "encode_stream": "codec",
    "losses_tsv": "codec",
    "plot_losses": "plot",
    "read_streams": "reader",
    "trajectory_digest": "codec",
    "value_of": "bits",
}


def __getattr__(name: str) -> Any:
    """Load a public name from the module that holds it (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
