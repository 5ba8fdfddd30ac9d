"""What the benchmarks share: rivals timed in turn, medians, and a line about the machine they ran on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NoReturn

__all__ = [
    "ask",
    "cpu_seconds",
    "heading",
    "interleaved",
    "json_of",
    "judge",
    "machine",
    "median",
    "reprobox",
    "seconds",
    "table",
    "verdict",
]


def interleaved(
    cases: Mapping[str, Callable[[], float]], rounds: int, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """Call every case once per round and return what each call returned (seconds, or another unit).

    The order turns by one each round, so that no case always follows the same other one and slow drifts of the machine
    meet all alike. The round before the first is not counted (`warm_up`): it fills the caches of disk and engine.
    """
    names = list(cases)
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-1 if warm_up else 0, rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            value = cases[name]()
            if number >= 0:
                found[name].append(value)
    return found


def seconds(command: Sequence[str], *, folder: Path | None = None, env: Mapping[str, str] | None = None) -> float:
    """Run a command to its end and return the wall time. Ends the benchmark, with its words, when it fails."""
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    taken = time.perf_counter() - started
    if done.returncode != 0:
        _give_up(command, done)
    return taken


def cpu_seconds(command: Sequence[str], *, env: Mapping[str, str] | None = None) -> float:
    """Run a command to its end and return the processor time it took: unlike wall time, other work adds little to it.

    Ends the benchmark when it fails; the command's words go where the benchmark's go.
    """
    process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"exit {process.returncode}: {' '.join(command)}")
    return usage.ru_utime + usage.ru_stime


def ask(command: Sequence[str], *, folder: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Return what a command writes to standard output. Ends the benchmark, with its words, when it fails."""
    done = subprocess.run(
        command, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        _give_up(command, done)
    return done.stdout.strip()


def _give_up(command: Sequence[str], done: subprocess.CompletedProcess[str]) -> NoReturn:
    print(done.stdout[-2000:] + done.stderr[-2000:], file=sys.stderr)
    sys.exit(f"exit {done.returncode}: {' '.join(command)}")


def reprobox() -> list[str]:
    """Return the installed `reprobox` command of the interpreter that runs the benchmark."""
    script = Path(sys.executable).parent / "reprobox"
    if not script.exists():
        sys.exit(f"no reprobox beside {sys.executable}: install it there (`make test` sets up .venv)")
    return [str(script)]


def json_of(command: Sequence[str], *, folder: Path, env: Mapping[str, str] | None = None) -> dict[str, object]:
    """Return the one object that a command with --json writes."""
    found: dict[str, object] = json.loads(ask(command, folder=folder, env=env))
    return found


def machine(*, docker: bool = True) -> str:
    """Return the line that says where the figures come from; the load tells how busy the machine was otherwise."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    parts = [model, f"{len(os.sched_getaffinity(0))} cores", f"{memory:.0f} GiB", f"Python {platform.python_version()}"]
    if docker:
        server = ask(["docker", "version", "--format", "{{.Server.Version}} (client {{.Client.Version}})"])
        driver = ask(["docker", "info", "--format", "{{.Driver}}"])
        parts.append(f"Docker {server}, {driver}")
    parts += [f"Linux {platform.release().partition('-')[0]}", f"load {os.getloadavg()[0]:.1f} at the start"]
    return ", ".join(parts)


def heading(title: str, *, docker: bool = True) -> None:
    """Print what is measured, and on what."""
    print(f"{title}\nmachine: {machine(docker=docker)}\n", flush=True)


def table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  ".join(cells).rstrip())
    print(flush=True)


def judge(claim: str, value: float, limit: float, unit: str, *, at_least: bool = False) -> bool:
    """Print one claim with the figure it is judged by; return whether it holds."""
    bound = "at least" if at_least else "under"
    return verdict(
        f"{claim}: {value:.3g} {unit} ({bound} {limit:.3g} {unit} promised)",
        value >= limit if at_least else value < limit,
    )


def verdict(claim: str, holds: bool) -> bool:
    """Print whether a claim holds, and return it."""
    print(f"{'holds ' if holds else 'MISSED'}  {claim}")
    return holds
