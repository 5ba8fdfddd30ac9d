"""How long things take to start: `reprobox --help`, a Python process of a run, and torch in it.

Promised: the medians differ by under 100 ms of wall time from an interpreter that does nothing (`reprobox --help`), and
by under 40 ms of processor time (the runtime, which every Python process of a run starts, whether or not it trains).
`import click` is context: reprobox's command line is built on it. Where an interpreter has a torch with MKL, calling
each of MKL's vector functions once, which a process that imports torch does first, takes under 10 ms of processor time
(why: `mkl_first_calls.py`).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from recorder import environment, lay_out, recorded_by
from timing import ask, cpu_seconds, heading, interleaved, judge, median, reprobox, seconds, table

COMMAND_LIMIT_MS = 100.0
RUNTIME_LIMIT_MS = 40.0
FIRST_CALLS_LIMIT_MS = 10.0

HAS_MKL = (
    "import importlib.util as u; print(bool(u.find_spec('torch') and __import__('torch').backends.mkl.is_available()))"
)

FIRST_CALLS = """
import runpy, sys, time
import torch

warmup = runpy.run_path(sys.argv[1])
began = time.process_time()
warmup["call_vector_functions"](torch)
print(time.process_time() - began, 2 * len(warmup["VECTOR_FUNCTIONS"]))
"""


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
        if ask([python, "-c", HAS_MKL]) == "True":
            print()
            held.append(first_calls(python, options.rounds))
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
        site, record = lay_out(Path(folder)), Path(folder) / "record"
        bare = environment()
        variables = bare | recorded_by(site, record)
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


def first_calls(python: str, rounds: int) -> bool:
    """Measure the first calls of MKL's vector functions in `python`; return whether the promise is kept."""
    command = [python, "-c", FIRST_CALLS, str(Path(__file__).parent.parent / "reprobox" / "runtime" / "warmup.py")]
    answers = [ask(command).split() for _ in range(rounds)]
    taken = [1e3 * float(answer[0]) for answer in answers]
    rows = [("processor time", "median", "fastest")]
    rows.append((f"{answers[0][1]} vector functions of MKL", f"{median(taken):.1f} ms", f"{min(taken):.1f} ms"))
    table(rows)
    return judge("calling them beforehand", median(taken), FIRST_CALLS_LIMIT_MS, "ms")


def started(command: Sequence[str], record: Path, env: Mapping[str, str]) -> float:
    """Return the processor time of a program that the runtime recorded, and look whether it did."""
    from reprobox.runtime import protocol

    processes = record / protocol.PROCESSES_FILE
    before = processes.stat().st_size if processes.exists() else 0
    taken = cpu_seconds(command, env=env)
    if not processes.exists() or processes.stat().st_size == before:
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
