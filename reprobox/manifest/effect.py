"""What a run's seed and mode came to in its program: read off what was recorded, never off what was asked for."""

from __future__ import annotations

from collections.abc import Sequence

from reprobox.manifest.model import Manifest
from reprobox.record.plain import entries
from reprobox.runtime.protocol import IN_A_CHILD, SEED_BATCHES

# How the names begin by which the entropy audit writes a seed that the program set, and what is seeded by it.
_KINDS = {"random.": ("random",), "numpy.": ("NumPy",), "torch.": ("torch",), "reprobox.": ("random", "NumPy", "torch")}
_MOST_MAKERS = 3


def seed_effect(manifest: Manifest) -> str:
    """Say what the run's seed decides about in this program, and what the program seeds itself from some line on."""
    seed, processes = manifest.run.seed, manifest.processes
    if processes.covered == 0:
        return f"{seed} decides about nothing: the runtime started in no process"
    own: dict[str, str] = {}
    in_children: dict[str, str] = {}
    for entry in entries(manifest.determinism.get("own_seeds")):
        what = str(entry.get("what"))
        found = in_children if what.endswith(IN_A_CHILD) else own
        for kind in next((kinds for start, kinds in _KINDS.items() if what.startswith(start)), ()):
            found.setdefault(kind, f"{what.removesuffix(IN_A_CHILD)} at {entry.get('where')}")
    software = manifest.software
    loaded = ["random", *(["NumPy"] if software.numpy else []), *(["torch"] if software.torch else [])]
    own = {kind: place for kind, place in own.items() if kind in loaded}
    if not own and software.torch:
        text = f"{seed} decides about everything (weights, order, workers)"
    else:
        free = [kind for kind in loaded if kind not in own]
        makers = _makers(manifest)
        if makers:
            free.append(f"generators made without a seed ({makers})")
        text = f"{seed} decides about {_listed(free) or 'nothing but the order of sets'}"
    if own:
        places = ", ".join(dict.fromkeys(own.values()))
        text += f"; the program seeds {_listed(list(own))} itself from there on: {places}"
    if in_children:
        places = ", ".join(dict.fromkeys(in_children.values()))
        text += f"; child processes seed {_listed(list(in_children))} themselves: {places}"
    if processes.uncovered:
        text += "; not about what ran without the runtime"
    return text


def _makers(manifest: Manifest) -> str:
    """Name the files of the program, and the packages, that made generators without a seed."""
    places = [str(entry.get("where")) for entry in entries(manifest.determinism.get("derived_seeds"))]
    names = list(dict.fromkeys(place.partition("/")[0].partition(":")[0] for place in places))
    return ", ".join([*names[:_MOST_MAKERS], *(["..."] if len(names) > _MOST_MAKERS else [])])


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


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))
