"""How long two things take to start: `reprobox --help`, and a Python process of a run.

Promised: the medians differ by under 100 ms of wall time from an interpreter that does nothing (`reprobox --help`), and
by under 40 ms of processor time (the runtime, which every Python process of a run starts, whether or not it trains).
`import click` is context: reprobox's command line is built on it. No torch is imported.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from timing import ask, cpu_seconds, heading, interleaved, judge, median, reprobox, seconds, table

COMMAND_LIMIT_MS = 100.0
RUNTIME_LIMIT_MS = 40.0


def main() -> int:
    """Measure, print, and return 1 when a promise is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--python", nargs="+", default=[sys.executable], help="interpreters to start the runtime in (default: this one)"
    )
    options = parser.parse_args()

    heading(f"Starting, {options.rounds} interleaved runs each", docker=False)
    held = [command_line(options.rounds)]
    for python in options.python:
        print()
        held.append(runtime(python, options.rounds))
    return 0 if all(held) else 1


def command_line(rounds: int) -> bool:
    """Measure what `reprobox --help` adds to an interpreter; return whether the promise is kept."""
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "python -c 'import click'": [sys.executable, "-c", "import click"],
        "reprobox --help": [*reprobox(), "--help"],
    }
    times = interleaved({name: partial(seconds, command) for name, command in commands.items()}, rounds)
    added = report("wall time", times)
    return judge("reprobox --help beyond python -c pass", added["reprobox --help"], COMMAND_LIMIT_MS, "ms")


def runtime(python: str, rounds: int) -> bool:
    """Measure what the runtime adds to the start of `python`; return whether the promise is kept."""
    version = ask([python, "-c", "import platform; print(platform.python_version())"])
    command = [python, "-c", "pass"]
    with tempfile.TemporaryDirectory(prefix="reprobox-benchmark-") as folder:
        site, record = Path(folder) / "site", Path(folder) / "record"
        variables = lay_out(site, record)
        bare = {name: value for name, value in variables.items() if name != "PYTHONPATH"}
        times = interleaved(
            {
                f"python {version} -c pass": partial(cpu_seconds, command, env=bare),
                "with the runtime": partial(started, command, record, variables),
            },
            rounds,
        )
    added = report("processor time", times)
    claim = f"the runtime beyond python {version} -c pass"
    return judge(claim, added["with the runtime"], RUNTIME_LIMIT_MS, "ms")


def lay_out(site: Path, record: Path) -> dict[str, str]:
    """Lay the runtime out as for a run; return the variables that have a Python start it."""
    from reprobox.runtime import protocol
    from reprobox.runtime.seeding import SCHEME
    from reprobox.workflow.execute import lay_out_runtime

    lay_out_runtime(site)
    record.mkdir()
    config = {"seed": 42, "seed_scheme": SCHEME, "deterministic": True, "threads": 1}
    (record / protocol.CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "REPROBOX_"))}
    return {**kept, "PYTHONPATH": str(site), "PYTHONHASHSEED": "42", protocol.RECORD_VARIABLE: str(record)}


def started(command: Sequence[str], record: Path, env: Mapping[str, str]) -> float:
    """Return the processor time of a program that the runtime recorded, and look whether it did."""
    from reprobox.runtime import protocol

    before = set(record.glob(f"{protocol.STARTED_PREFIX}*"))
    taken = cpu_seconds(command, env=env)
    if set(record.glob(f"{protocol.STARTED_PREFIX}*")) == before:
        sys.exit(f"the runtime did not start in {command[0]}")
    return taken


def report(kind: str, times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Print a table of cases, the bare interpreter first; return the milliseconds that each adds to it."""
    bare_name = next(iter(times))
    bare = median(times[bare_name])
    added = {name: 1e3 * (median(values) - bare) for name, values in times.items()}
    rows = [(kind, "median", "fastest", f"beyond {bare_name}", "ratio")]
    for name, values in times.items():
        middle = median(values)
        figures = (1e3 * middle, 1e3 * min(values), added[name])
        rows.append((name, *(f"{figure:.1f} ms" for figure in figures), f"{middle / bare:.2f} x"))
    table(rows)
    return added


if __name__ == "__main__":
    sys.exit(main())
