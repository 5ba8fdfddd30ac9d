"""Named metrics beside the losses: `log(accuracy=0.97)`, kept to the bit in the stream of records."""

from __future__ import annotations

import re
import struct
import sys
import warnings
from typing import Any

from . import current

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_./ -]{0,63}")
_LAYOUTS = {"float16": ">e", "float32": ">f", "float64": ">d"}
_warned = False


def log(**metrics: Any) -> None:
    """Record metrics by name: numbers, or tensors and arrays with one element.

    Each keeps the bits of its own dtype (Python's numbers are float64) and stands in the record after the losses so
    far; the last value of each name is shown in the manifest under `result.metrics`. A tensor on a GPU is waited for:
    log once an epoch, not at every step. Outside a run nothing is recorded, and the first call warns of it.

    Raises TypeError for what is not one number, and ValueError for an integer that a float64 cannot hold or for a name
    that is not made of letters, digits and `_ . / -` and blanks (at most 64).
    """
    global _warned
    found = [(name, *_bits_of(name, value)) for name, value in metrics.items()]
    if current.run is None:
        if not _warned:
            _warned = True
            warnings.warn("reprobox.runtime.log: this is no reprobox run, so no metric is recorded", stacklevel=2)
        return
    for name, dtype, bits in found:
        current.run.recorder.metric(name, dtype, bits)


def _bits_of(name: str, value: Any) -> tuple[str, str]:
    """Return dtype and bits (hex, big-endian) of one metric."""
    if not NAME.fullmatch(name):
        raise ValueError("a metric's name is made of letters, digits, _ . / - and blanks, found %r" % name)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor) and value.numel() == 1:
        from .bits import bits_of, number_of

        host = value.detach().cpu().reshape(())
        dtype = str(host.dtype).replace("torch.", "")
        if dtype in _LAYOUTS or dtype == "bfloat16":
            return dtype, bits_of(number_of(host), dtype)
        value = host.item()
    dtype = str(getattr(value, "dtype", ""))
    if dtype and getattr(value, "size", 0) == 1:
        value = value.item()
    if isinstance(value, (bool, int)):
        try:
            exact = float(value)
        except OverflowError:
            exact = 0.5
        if exact != value:
            raise ValueError("metric %s: %d does not fit into a float64 without rounding" % (name, value))
        value = exact
    if not isinstance(value, float):
        raise TypeError("metric %s: expected one number, found %s" % (name, type(value).__name__))
    dtype = dtype if dtype in _LAYOUTS else "float64"
    return dtype, struct.pack(_LAYOUTS[dtype], value).hex()
