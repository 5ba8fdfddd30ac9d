"""Named metrics beside the losses: `log(accuracy=0.97)`, and what the program's own loggers are given (see loggers.py).

Every value is kept to the bit, in the order in which it was logged, with the step that the program gave.
"""

from __future__ import annotations

import os
import re
import struct
import sys
import warnings
from typing import TYPE_CHECKING, Any, Optional, Union

from . import current
from .unjudged import UNJUDGED as UNJUDGED
from .unjudged import unjudged as unjudged

if TYPE_CHECKING:
    from .recorder import Recorder

MAX_NAMES = 1000
MAX_NAME = 200
# What stands in a record as it was typed: characters that every version of Unicode since 3.2 prints, so that each
# Python agrees: Latin, Greek, Cyrillic, punctuation, sub- and superscripts, arrows, operators, kana, Chinese, Korean.
# All else is escaped.
_PRINTED = (
    r" -~\u00a1-\u00ac\u00ae-\u0220\u0384-\u038a\u038c\u038e-\u03a1\u03a3-\u03ce\u0400-\u0486\u0488-\u04ce"
    r"\u2010-\u2027\u2030-\u2052\u2074-\u208e\u2190-\u22ff\u3041-\u3096\u3099-\u30ff\u4e00-\u9fa5\uac00-\ud7a3"
)
_UNFIT = re.compile("[^%s]" % _PRINTED)
NAME = re.compile("[%s]{1,%d}" % (_PRINTED, MAX_NAME))
_LARGEST_STEP = 10**15
_LAYOUTS = {"float16": ">e", "float32": ">f", "float64": ">d"}
_warned = False
_names: set[str] = set()
# The child's record is a file of its own.
os.register_at_fork(after_in_child=_names.clear)


def log(**metrics: Any) -> None:
    """Record metrics by name: numbers, or tensors and arrays with one element.

    Each keeps the bits of its own dtype (Python's numbers are float64) and stands in the record after the losses so
    far. No GPU is waited for, but for a whole number that lies on it. Outside a run nothing is recorded, and the first
    call warns of it.

    Raises TypeError for what is not one number, and ValueError for an integer that a float64 cannot hold or for a name
    that is not one line of printable text (at most 200 characters).
    """
    global _warned
    found = [(name, _own(name, value)) for name, value in metrics.items()]
    if current.run is None:
        if not _warned:
            _warned = True
            warnings.warn("reprobox.runtime.log: this is no reprobox run, so no metric is recorded", stacklevel=2)
        return
    for name, value in found:
        _write(current.run.recorder, fitted(name), value, None)


def capture(recorder: Recorder, name: Any, value: Any, step: Any = None) -> None:
    """Record what a logger of the program's was given, if it is one number; images, texts and the like are passed over.

    The name is made fit, and an integer that a float64 cannot hold becomes the nearest that it can.
    """
    number = _number(value)
    if isinstance(number, int):
        number = _float_near(number)
    if number is not None:
        _write(recorder, fitted(name), number, _step(step))


def fitted(name: Any) -> str:
    """Return a name as one line of printable text of at most 200 characters: escaped, and cut in its middle."""
    text = _UNFIT.sub(lambda found: found[0].encode("unicode_escape").decode(), str(name))
    if len(text) > MAX_NAME:
        import hashlib

        # Both ends say something: whose it is, and what. The digest keeps names apart that differ between them.
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        half = (MAX_NAME - len(digest) - 2) // 2
        text = "%s~%s~%s" % (text[:half], digest, text[-half:])
    return text or "(no name)"


class _Bits:
    """A number by the bits of its own dtype, in hex, big-endian."""

    def __init__(self, dtype: str, bits: str) -> None:
        self.dtype = dtype
        self.bits = bits


class _OnDevice:
    """A one-element tensor of a floating dtype whose value is not on the host yet."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor


_Number = Union[_Bits, _OnDevice, float]


def _write(recorder: Recorder, name: str, value: _Number, step: Optional[int]) -> None:
    if name not in _names:
        if len(_names) >= MAX_NAMES:
            recorder.warn("more than %d names of metrics were logged: the others are not recorded" % MAX_NAMES)
            return
        _names.add(name)
    if isinstance(value, _OnDevice):
        recorder.metric_tensor(name, value.tensor, step)
        return
    if isinstance(value, float):
        value = _packed(value)
    recorder.metric(name, value.dtype, value.bits, step)


def _own(name: str, value: Any) -> _Number:
    """Return one metric of `log`, or raise what that says."""
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise ValueError(
            "a metric's name is one line of printable text of at most %d characters, found %r" % (MAX_NAME, name)
        )
    number = _number(value)
    if number is None:
        raise TypeError("metric %s: expected one number, found %s" % (name, type(value).__name__))
    if isinstance(number, int):
        exact = _float_near(number)
        if exact != number:
            raise ValueError("metric %s: %d does not fit into a float64 without rounding" % (name, number))
        number = exact
    return number


def _number(value: Any) -> Union[_Number, int, None]:
    """Return a number, or the one in a tensor or array with one element; None for everything else."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, getattr(torch, "Tensor", ())):
        return _number_of_tensor(torch, value)
    dtype = str(getattr(value, "dtype", ""))
    if dtype:
        if getattr(value, "size", 0) != 1:
            return None
        value = value.item()
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) or (dtype and not isinstance(value, complex) and hasattr(value, "__float__")):
        # The second is NumPy's float128, of which no Python number is made.
        return _packed(float(value), dtype)
    return None


def _number_of_tensor(torch: Any, value: Any) -> Union[_Number, int, None]:
    from .bits import DTYPES, bits_of, number_of

    if value.is_meta or value.numel() != 1 or value.is_complex():
        return None
    value = value.detach()
    if hasattr(value, "to_local"):
        value = value.to_local()
    dtype = str(value.dtype).replace("torch.", "")
    if not value.is_cpu:
        if dtype in DTYPES:
            return _OnDevice(value.reshape(()))
        value = value.cpu()
    value = value.reshape(())
    if dtype in DTYPES:
        return _Bits(dtype, bits_of(number_of(value), dtype))
    number = value.item()
    return int(number) if isinstance(number, int) else float(number)


def _packed(number: float, dtype: str = "float64") -> _Bits:
    dtype = dtype if dtype in _LAYOUTS else "float64"
    return _Bits(dtype, struct.pack(_LAYOUTS[dtype], number).hex())


def _float_near(number: int) -> float:
    try:
        return float(number)
    except OverflowError:
        return float("inf") if number > 0 else float("-inf")


def _step(value: Any) -> Optional[int]:
    """Return the step that the program gave; None where it is no whole number, or would have to be waited for."""
    if value is None or not getattr(value, "is_cpu", True):
        return None
    try:
        step = int(value)
        return step if step == value and abs(step) < _LARGEST_STEP else None
    except (TypeError, ValueError, OverflowError):
        return None
