"""What a warm `reprobox run` (nothing changed since the last) adds to a bare `docker run --rm` of the same image.

Promised: under 1 s, for a program that does nothing and for one that imports torch. A run hashes the code, looks up
base, lock and image, starts the container locked down, records, and writes the manifest; the last tables say what of it
takes how long. Context: `docker run --network none`, because a bare `docker run` also sets up a network and reprobox
does not; and `reprobox run --fast`, because the template asks for deterministic algorithms, which a bare program lacks.

The image of the vision template is made first, if it is not there yet, in the cache that reprobox uses anyway.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from timing import ask, heading, interleaved, json_of, judge, median, reprobox, seconds, table

from reprobox.progress import Observer

LIMIT_S = 1.0
PROGRAMS = {"python -c pass": "pass", "python -c 'import torch'": "import torch"}

# What the time before each event was spent on; an event is a phase that finished, or the program's start and end.
PHASES = {
    "begun": "interpreter and imports, up to the call of run()",
    "code": "connect to Docker, sweep, code snapshot",
    "base": "base",
    "lock": "lock",
    "image": "image: assemble and find it in the engine",
    "seed": "what the engine is",
    "started": "run folder, code and runtime, container created and started",
    "ended": "the program, from Python's start to its end",
    "returned": "container removed, record read, manifest written",
    "exit": "end of the reprobox process",
}


def main() -> int:
    """Measure, print, and return 1 when a promise is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--trace", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trace:
        return trace(Path(options.trace[0]), options.trace[1], float(options.trace[2]))

    heading(f"Warm `reprobox run` against `docker run --rm`, {options.rounds} interleaved runs each")
    with tempfile.TemporaryDirectory(prefix="reprobox-benchmark-") as folder:
        project = Path(folder) / "project"
        ask([*reprobox(), "init", "vision", str(project)])
        images = set(ask(["docker", "images", "--quiet", "--no-trunc"]).split())
        image = str(json_of([*reprobox(), "image", "build", "--json"], folder=project)["image_id"])
        try:
            kept = [compare(program, project, image, options.rounds) for program in PROGRAMS]
            for program, statement in PROGRAMS.items():
                show_phases(program, statement, project, options.rounds)
        finally:
            if image not in images:
                ask(["docker", "image", "rm", image])
    return 0 if all(kept) else 1


def compare(program: str, project: Path, image: str, rounds: int) -> bool:
    """Time one program both ways; return whether the promise is kept."""
    words = ["python", "-c", PROGRAMS[program]]
    run = [*reprobox(), "run", "--engine", "docker", "--json"]
    cases = {
        "docker run --rm": partial(seconds, ["docker", "run", "--rm", image, *words]),
        "docker run --rm --network none": partial(
            seconds, ["docker", "run", "--rm", "--network", "none", image, *words]
        ),
        "reprobox run --fast": partial(seconds, [*run, "--fast", "--", *words], folder=project),
        "reprobox run": partial(seconds, [*run, "--", *words], folder=project),
    }
    times = interleaved(cases, rounds)
    bare = median(times["docker run --rm"])
    rows = [(program, "median", "fastest", "added", "ratio")]
    for name, values in times.items():
        middle = median(values)
        rows.append(
            (name, f"{middle:.2f} s", f"{min(values):.2f} s", f"{middle - bare:+.2f} s", f"{middle / bare:.2f} x")
        )
    table(rows)
    kept = judge(f"reprobox run beyond docker run, {program}", median(times["reprobox run"]) - bare, LIMIT_S, "s")
    print()
    return kept


def show_phases(program: str, statement: str, project: Path, rounds: int) -> None:
    """Print what a warm run consists of: medians of the time before each event."""
    found: dict[str, list[float]] = {event: [] for event in PHASES}
    for _ in range(rounds):
        began = time.monotonic()
        command = [sys.executable, __file__, "--trace", str(project), statement, str(began)]
        events = json.loads(ask(command).splitlines()[-1])
        events["exit"] = time.monotonic()
        previous = began
        for event in PHASES:
            found[event].append(events[event] - previous)
            previous = events[event]
    rows = [(f"reprobox run -- {program}", "median")]
    rows += [(f"  {text}", f"{1e3 * median(found[event]):.0f} ms") for event, text in PHASES.items()]
    table(rows)


class Clock(Observer):
    """Notes when each phase was reported finished."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.events: dict[str, float] = {}

    def finished(self, phase: str, text: str, note: str = "") -> None:
        """Note the time; a phase that reports twice counts from its last report."""
        self.events[phase] = time.monotonic()

    def training_started(self) -> None:
        """Note the time at which the container runs."""
        self.events["started"] = time.monotonic()

    def training_ended(self) -> None:
        """Note the time at which the program has ended."""
        self.events["ended"] = time.monotonic()


def trace(project: Path, statement: str, began: float) -> int:
    """In a process of its own: what `reprobox run` does, with a clock for an observer."""
    # Imported here, as the command line does it, because their time is part of what is measured.
    from reprobox.cache import cache_root
    from reprobox.spec import load_spec
    from reprobox.workflow.run import run

    clock = Clock()
    spec = load_spec(project, file=None, overrides={"command": ["python", "-c", statement]})
    clock.events["begun"] = time.monotonic()
    run(spec, project, engine="docker", cache=cache_root(), observer=clock)
    clock.events["returned"] = time.monotonic()
    print(json.dumps(clock.events))
    return 0


if __name__ == "__main__":
    sys.exit(main())
