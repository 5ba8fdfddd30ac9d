"""The lines of a record that are made when they are written (protocol.py says what they mean).

Making them all at once, some time after the training step, is cheaper than one at each step; and what some need is only
then on the host.
"""

from __future__ import annotations

from typing import Any

from .bits import Number, bits_of, number_of


def loss(step: int, at: int, dtype: str, event: str, factor: float, number: Number) -> str:
    """Return the line of a loss."""
    start = "loss\t%d\t%d\t%s\t%s" % (step, at, dtype, bits_of(number, dtype))
    if event == "backward" and factor == 1.0:
        return start + "\n"
    return "%s\t%s\t%s\n" % (start, event, _decimal(factor))


def loss_on_host(step: int, at: int, dtype: str, event: str, factor: float, value: Any) -> str:
    """Return the line of a loss that has come from a device."""
    return loss(step, at, dtype, event, factor, number_of(value))


def scaled_loss(step: int, at: int, dtype: str, event: str, factor: float, value: Any, scale: Any) -> str:
    """Return the line of a loss that a GradScaler has multiplied by a scale that was on the device too."""
    return loss(step, at, dtype, event, factor * scale.item(), number_of(value))


def metric(name: str, at: int, step: int | None, dtype: str, bits: str) -> str:
    """Return the line of a metric."""
    return "metric\t%s\t%d\t%s\t%s\t%s\n" % (name, at, "-" if step is None else step, dtype, bits)


def metric_on_host(name: str, at: int, step: int | None, dtype: str, value: Any) -> str:
    """Return the line of a metric that has come from a device."""
    return metric(name, at, step, dtype, bits_of(number_of(value), dtype))


def skipped(at: int, optimizer: int, found_inf: Any) -> str:
    """Return the line of an optimizer step that did nothing if gradients were infinite; else no line."""
    return "skip\t%d\t%d\n" % (at, optimizer) if found_inf.item() else ""


def optimizer(number: int, training: int, kind: str) -> str:
    """Return the line of an optimizer that was seen for the first time."""
    plain = "".join(c if "!" <= c <= "~" else "?" for c in kind)[:60]
    return "optimizer\t%d\t%d\t%s\n" % (number, training, plain or "?")


def lost(what: str, why: str) -> str:
    """Return the line that says why there is nothing more of one kind."""
    text = "".join(c if c.isprintable() else " " for c in why)[:300]
    return "lost\t%s\t%s\n" % (what, text or "unknown")


def digest(start: str, sizes: int, *sums: Any) -> str:
    """Return the line of a digest that begins with `start`, from its parts on the devices."""
    from .digests import combined

    return start + combined((sizes, *sums)) + "\n"


def _decimal(number: float) -> str:
    """Return the shortest decimal that names a float64."""
    return "%d" % number if number.is_integer() and abs(number) < 1e15 else repr(number)
