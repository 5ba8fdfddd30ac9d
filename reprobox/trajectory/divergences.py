"""Describes single differences between two trajectories: a loss, a digest, an end."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right

from reprobox.trajectory.bits import decimal, ulps, unscaled
from reprobox.trajectory.model import Digest, Divergence, Loss, Tolerance, Trajectory


def value_of(loss: Loss) -> float:
    """Return a loss as a number, less its known scale."""
    return unscaled(loss.bits, loss.dtype, loss.scale)


def turn(digest: Digest) -> int:
    """Return when a digest was taken: before (-1) or after (1) the losses of its step."""
    return -1 if digest.what == "batch" else 1


def place_of(digest: Digest) -> tuple[int, str, int]:
    """Return what tells a digest from the others of its stream."""
    return digest.optimizer_step, digest.what, digest.optimizer


def digest_values(trajectory: Trajectory) -> dict[tuple[int, str, int], str]:
    """Return the digests of a stream by their places."""
    return {place_of(one): one.value for one in trajectory.digests}


def digest_divergence(stream: int, first: Trajectory, value: str, digest: Digest) -> Divergence:
    """Describe a digest that differs; its step is that of the last loss before it, of a batch the first after it."""
    if digest.what == "batch":
        step = bisect_left(first.losses, digest.optimizer_step, key=lambda loss: loss.optimizer_step)
    else:
        step = max(0, bisect_right(first.losses, digest.optimizer_step, key=lambda loss: loss.optimizer_step) - 1)
    return Divergence(
        what=digest.what,
        stream=stream,
        step=step,
        optimizer_step=digest.optimizer_step,
        recorded=value,
        replayed=digest.value,
    )


def tolerated(original: Loss, loss: Loss, tolerance: Tolerance | None) -> bool:
    """Say whether an unequal loss satisfies the tolerance, which is on its value alone."""
    if tolerance is None or original.optimizer_step != loss.optimizer_step:
        return False
    first, second = value_of(original), value_of(loss)
    if math.isnan(first) or math.isnan(second):
        return math.isnan(first) and math.isnan(second)
    if math.isinf(first) or math.isinf(second):
        return first == second
    return abs(second - first) <= tolerance.absolute + tolerance.relative * abs(first)


def loss_divergence(stream: int, original: Loss, loss: Loss) -> Divergence:
    """Describe a loss that differs."""
    return Divergence(
        what="loss",
        stream=stream,
        step=loss.step,
        optimizer_step=loss.optimizer_step,
        recorded=decimal(original.bits, original.dtype),
        replayed=decimal(loss.bits, loss.dtype),
        recorded_bits=original.bits,
        replayed_bits=loss.bits,
        ulps=ulps(original.bits, loss.bits, loss.dtype) if original.dtype == loss.dtype else None,
    )


def length_divergence(stream: int, original: Loss | None, loss: Loss | None) -> Divergence:
    """Describe a loss that only one of the two runs has."""
    only = original or loss
    assert only is not None
    return Divergence(
        what="length",
        stream=stream,
        step=only.step,
        optimizer_step=only.optimizer_step,
        recorded=decimal(original.bits, original.dtype) if original else None,
        replayed=decimal(loss.bits, loss.dtype) if loss else None,
        recorded_bits=original.bits if original else None,
        replayed_bits=loss.bits if loss else None,
    )
