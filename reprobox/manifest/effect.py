"""What a run's seed and mode came to in its program: read off what was recorded, never off what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reprobox.manifest.model import Manifest
from reprobox.runtime.protocol import SEED_BATCHES

# How the names begin by which the entropy audit writes a seed that the program set.
_KINDS = {"random.": "random", "numpy.": "NumPy", "torch.": "torch"}


def seed_effect(manifest: Manifest) -> str:
    """Say what the run's seed decides about in this program, and what the program seeds itself."""
    seed, processes = manifest.run.seed, manifest.processes
    if processes.covered == 0:
        return f"{seed} decides about nothing: the runtime started in no process"
    own: dict[str, str] = {}
    for entry in free_entries(manifest.determinism.get("own_seeds")):
        what = str(entry.get("what"))
        kind = next((name for start, name in _KINDS.items() if what.startswith(start)), None)
        if kind is not None:
            own.setdefault(kind, f"{what} at {entry.get('where')}")
    software = manifest.software
    loaded = ["random", *(["NumPy"] if software.numpy else []), *(["torch"] if software.torch else [])]
    free = [kind for kind in loaded if kind not in own]
    if own and free_entries(manifest.determinism.get("derived_seeds")):
        free.append("generators made without a seed")
    if not own and software.torch:
        text = f"{seed} decides about everything (weights, order, workers)"
    else:
        text = f"{seed} decides about {_listed(free) or 'nothing'}"
    if own:
        text += f"; the program seeds {_listed(list(own))} itself ({', '.join(own.values())})"
    if processes.uncovered:
        text += "; not about what ran without the runtime"
    return text


def mode_effect(manifest: Manifest) -> str:
    """Say in which mode torch computed, as its switches were read back when the program ended."""
    asked, flags = manifest.spec.deterministic, manifest.determinism
    deterministic = flags.get("use_deterministic_algorithms")
    if deterministic is None:
        return "none: torch was not loaded, or did not say"
    if not deterministic:
        text = "not deterministic: the program switched it off" if asked else "fast mode"
    elif flags.get("warn_only"):
        text = "deterministic where torch can be, a warning elsewhere: the program chose so"
    else:
        text = "deterministic" if asked else "deterministic: the program switched it on"
    return text + (", each batch seeded" if manifest.spec.loader_seeding == SEED_BATCHES else "")


def free_entries(entries: Any) -> list[dict[str, Any]]:
    """Return the mappings in a list of the manifest's free tree, whose form nobody promises."""
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))
