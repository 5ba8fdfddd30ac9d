"""Puts a divergence into one sentence for a person: where two trainings part, and of what that comes, if it shows."""

from __future__ import annotations

from collections.abc import Sequence

from reprobox.runtime import protocol
from reprobox.trajectory.model import Divergence
from reprobox.trajectory.trainings import Pair
from reprobox.units import counted

_DIGESTED = {
    protocol.GRADIENTS: "the gradients",
    protocol.WEIGHTS: "the weights",
    protocol.RANDOM: "the random states",
    protocol.BATCH: "the batches",
}
_TENSORS = {
    protocol.INITIAL: ("initial weights", "parameter"),
    protocol.GRADIENT: ("first gradients", "parameter"),
    protocol.STATE: ("state at the end", "tensor"),
}


def reason(divergence: Divergence, pair: Pair | None) -> str:
    """Return the sentence for a divergence between two trainings, which are the `pair`."""
    what = divergence.what
    process = f" in process {divergence.stream}" if divergence.stream > 0 else ""
    if what == "loss":
        return _loss_reason(divergence, pair, process)
    if what in _DIGESTED:
        if what == protocol.BATCH:
            first = " (the first one)" if not divergence.optimizer_step else ""
            agree = ", though the losses so far agree" if divergence.step else ""
            weights = "; the initial weights agree" if first and _both_have(pair, protocol.INITIAL) else ""
            return (
                f"the batches differ before optimizer step {divergence.optimizer_step}{first}{process}{agree}{weights}"
            )
        where = f"after optimizer step {divergence.optimizer_step}{process}"
        return f"{_DIGESTED[what]} differ {where}, though the losses so far agree"
    if what in _TENSORS:
        name, unit = _TENSORS[what]
        more = f" and in {counted(divergence.more, 'other')}" if divergence.more else ""
        agree = {
            protocol.INITIAL: "",
            protocol.GRADIENT: ", though the losses so far agree: the arithmetic differs",
            protocol.STATE: ", though all losses agree",
        }[what]
        if divergence.recorded is None or divergence.replayed is None:
            whose = "the replay" if divergence.replayed is None else "the recorded run"
            return f"{whose} has no {divergence.name} among the {name}{process}"
        differ = "differs" if what == protocol.STATE else "differ"
        return f"the {name} {differ} in the {unit} {divergence.name}{more}{process}{agree}"
    if what == "metric":
        more = f" (and {counted(divergence.more, 'more metric')})" if divergence.more else ""
        when = f" at step {divergence.step}" if divergence.step is not None else ""
        if divergence.recorded is None or divergence.replayed is None:
            whose = "the replay" if divergence.replayed is None else "the recorded run"
            value = divergence.recorded or divergence.replayed
            return f"{whose} logged no {divergence.name}{when}{process}, the other {value}{more}"
        return f"{divergence.name}{when} is {divergence.replayed} instead of {divergence.recorded}{process}{more}"
    if what == protocol.FINAL:
        return f"the final weights differ{process}, though all losses agree"
    return _length_reason(divergence, process)


def _loss_reason(divergence: Divergence, pair: Pair | None, process: str) -> str:
    where = f"step {divergence.step}{process}"
    if divergence.recorded_bits == divergence.replayed_bits:
        return f"the loss at {where} was computed in another dtype or scale, or after another number of optimizer steps"
    apart = "" if divergence.ulps is None else f", {divergence.ulps} ULP apart"
    why = ""
    if divergence.step == 0:
        # What a first loss comes of, where both runs know it.
        known = [("initial weights", protocol.INITIAL), ("first batch", protocol.BATCH)]
        equal = [f"the {name}" for name, what in known if _both_have(pair, what)]
        if equal:
            why = f"; {listed(equal)} {'agree' if len(equal) > 1 or 'weights' in equal[0] else 'agrees'}"
            why += ", so the arithmetic differs" if len(equal) == len(known) else ""
    return f"the loss at {where} is {divergence.replayed} instead of {divergence.recorded}{apart}{why}"


def _both_have(pair: Pair | None, what: str) -> bool:
    if pair is None:
        return False
    both = (pair.first, pair.second)
    if what == protocol.BATCH:
        return all(one.digests and one.digests[0].optimizer_step == 0 and what in one.digests.kinds for one in both)
    return all(any(tensor.what == what for tensor in one.tensors) for one in both)


def _length_reason(divergence: Divergence, process: str) -> str:
    if divergence.name in ("process", "training"):
        plural = "processes" if divergence.name == "process" else "trainings"
        if divergence.replayed == divergence.recorded:
            return f"the {plural} of the two runs do not belong to each other: other numbers or roles"
        return f"{plural} recorded: {divergence.replayed} instead of {divergence.recorded}"
    if divergence.name == "role":
        return f"process {divergence.stream} was a {divergence.recorded}, now it is a {divergence.replayed}"
    if divergence.name is not None:
        taken = f"{divergence.replayed} {divergence.name} instead of {divergence.recorded}"
        return f"all losses agree, but the replay took {taken}"
    shorter = "replay" if divergence.replayed is None else "recorded run"
    return f"the {shorter} has no loss at step {divergence.step}{process}, the other has"


def subject(divergence: Divergence) -> str:
    """Return what differs, in two words."""
    if divergence.what in _DIGESTED:
        return _DIGESTED[divergence.what]
    if divergence.what in _TENSORS:
        return f"the {_TENSORS[divergence.what][0]}"
    return "the metrics" if divergence.what == "metric" else "the final weights"


def listed(words: Sequence[str]) -> str:
    """Return `a, b and c`."""
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)
