"""What a manifest says of its losses, digests and metrics, derived again from them.

Whoever edits a manifest on purpose can compute its digest anew, so nothing that is written in two places is believed
once: first and last loss, sums and digests follow from what was recorded, and what spec and runtime promise must be
there, or the reason why it is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from reprobox.errors import ManifestError
from reprobox.manifest.model import Manifest, ResultRecord, StreamRecord
from reprobox.runtime import protocol
from reprobox.runtime.unjudged import unjudged
from reprobox.spec import RunSpec
from reprobox.trajectory.bits import decimal, shown
from reprobox.trajectory.codec import Files, decode_series, decode_stream, no_files, trajectory_digest
from reprobox.trajectory.model import Loss, Series, Trajectory, combined_weights

_MOST_REPORTED = 10
_OF_OPTIMIZERS = (protocol.GRADIENTS, protocol.WEIGHTS, protocol.RANDOM)


def recorded(manifest: Manifest, files: Files = no_files) -> tuple[Trajectory, ...]:
    """Return what the processes of a run recorded, all that the manifest says of it checked.

    Raises ManifestError, field by field, where it does not hold.
    """
    streams = tuple(decode_stream(stream, files) for stream in manifest.streams)
    found = [*_contradictions(manifest, streams, metric_files(manifest, files)), *_gaps(manifest, streams)]
    if found:
        more = (f"and {len(found) - _MOST_REPORTED} more",) if len(found) > _MOST_REPORTED else ()
        raise ManifestError(
            "the manifest contradicts what was recorded, or lacks what must be there",
            details=(*found[:_MOST_REPORTED], *more),
            hint="it was edited after reprobox wrote it; get it again from where it came",
        )
    return streams


def metric_files(manifest: Manifest, files: Files = no_files) -> dict[str, Series]:
    """Return the metrics that stood in files which the spec names. Raises ManifestError for damaged ones."""
    return {one.name: decode_series(one, files) for one in manifest.result.metric_files}


def first_and_last(streams: tuple[Trajectory, ...]) -> tuple[str | None, str | None]:
    """Return the first and the last loss over all streams, as they are shown; None without any."""
    with_losses = [stream.losses for stream in streams if len(stream.losses)]
    if not with_losses:
        return None, None
    return _shown(with_losses[0][0]), _shown(with_losses[-1][-1])


def last_metrics(streams: tuple[Trajectory, ...], in_files: Mapping[str, Series]) -> dict[str, str]:
    """Return the last value of each metric by name; where several processes logged one, the first process speaks."""
    found: dict[str, str] = {}
    for metrics in (in_files, *(stream.metrics for stream in reversed(streams))):
        for name, series in metrics.items():
            dtype, bits = series.numbers.at(len(series) - 1)
            found[name] = decimal(bits, dtype)
    return dict(sorted(found.items()))


def judged_by(result: ResultRecord) -> str | None:
    """Say by what a replay of a run is judged; None where it recorded nothing that could be."""
    if result.steps or result.weights:
        return "losses"
    if result.metrics.keys() - set(result.unjudged_metrics):
        return "metrics"
    if result.outputs:
        return "outputs"
    return "what it printed" if result.printed.bytes else None


def unjudged_names(names: Iterable[str], spec: RunSpec) -> tuple[str, ...]:
    """Return, of the names of metrics, those that a replay need not repeat, in order."""
    return tuple(sorted(name for name in names if unjudged(name, spec.unjudged_metrics)))


def final_weights(streams: tuple[Trajectory, ...]) -> str | None:
    """Return the digest of what a run arrived at: of the different ones among what its optimizers did, in whatever
    process, which of a pool is chance; None where one is unknown.
    """
    found = {optimizer.weights for stream in streams for optimizer in stream.optimizers}
    return combined_weights(list(found))


def _shown(loss: Loss) -> str:
    return shown(loss.bits, loss.dtype, loss.scale)


def _contradictions(
    manifest: Manifest, streams: tuple[Trajectory, ...], in_files: Mapping[str, Series]
) -> Iterator[str]:
    result = manifest.result
    first, last = first_and_last(streams)
    for field, written, derived in (
        ("first_loss", result.first_loss, first),
        ("final_loss", result.final_loss, last),
        ("metrics", result.metrics, last_metrics(streams, in_files)),
        ("unjudged_metrics", result.unjudged_metrics, unjudged_names(result.metrics, manifest.spec)),
        ("trajectory", result.trajectory, trajectory_digest(streams)),
        ("weights", result.weights, final_weights(streams)),
    ):
        if written != derived:
            yield f"result.{field} is {_short(written)}, what was recorded gives {_short(derived)}"


def _short(value: object) -> str:
    text = str(value) if value is not None else "nothing"
    return text if len(text) <= 100 else f"{text[:100]}..."


def _gaps(manifest: Manifest, streams: tuple[Trajectory, ...]) -> Iterator[str]:
    """Say what should have been recorded and was not, without a reason."""
    every = manifest.spec.trajectory.digest_every
    for number, (record, stream) in enumerate(zip(manifest.streams, streams, strict=True)):
        here = f"streams[{number}]"
        unknown = [str(place) for place, one in enumerate(stream.optimizers) if one.weights is None]
        if unknown and stream.complete and protocol.FINAL not in stream.missing:
            yield f"{here}.optimizers[{unknown[0]}].weights is null, and nothing in {here}.missing says why"
        if every:
            yield from _missing_digests(here, record, stream, every)
            yield from _missing_tensors(here, stream)


def _missing_digests(here: str, record: StreamRecord, stream: Trajectory, every: int) -> Iterator[str]:
    """Compare where digests are with where they must be: after the first and each `every` of an optimizer's steps."""
    digests = stream.digests
    counts: Counter[tuple[str, int]] = Counter()
    last: dict[tuple[str, int], int] = {}
    for kind, number, own in zip(digests.kind_at, digests.optimizers, digests.rounds, strict=True):
        what = digests.kinds[kind]
        if what not in _OF_OPTIMIZERS:
            continue
        key = (what, number)
        due = (last[key] // every + 1) * every if key in last else 1
        if own != due or number >= len(record.optimizers) or (what == protocol.GRADIENTS and own != 1):
            yield f"{here}.digests: {what} of optimizer {number} after its step {own}, where none is taken"
            return
        counts[key] += 1
        last[key] = own
    for place, optimizer in enumerate(stream.optimizers):
        steps = optimizer.steps
        regular = steps if every == 1 else steps // every + min(1, steps)
        for what in _OF_OPTIMIZERS:
            expected = min(1, steps) if what == protocol.GRADIENTS else regular
            found = counts[what, place]
            # The record of a process that was cut off may end between a step and its digests.
            least = 0 if "digests" in stream.missing else expected - (not stream.complete)
            if not least <= found <= expected:
                yield f"{here}.digests: {what} of optimizer {place} {found} times, expected {expected}"


def _missing_tensors(here: str, stream: Trajectory) -> Iterator[str]:
    present = {one.what for one in stream.tensors}
    stepped = any(one.steps for one in stream.optimizers)
    trained = bool(stream.optimizers)
    for what, expected in (
        (protocol.INITIAL, len(stream.losses) > 0),
        (protocol.GRADIENT, stepped and "digests" not in stream.missing),
        (protocol.STATE, trained and stream.complete),
    ):
        # A process that was cut off may end before the line that would have said why.
        if expected and what not in present and what not in stream.missing and stream.complete:
            yield f"{here}.tensors: none of the kind {what}, and nothing in {here}.missing says why"
