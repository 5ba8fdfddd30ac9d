"""What recording costs per training step, digests included: blocks of steps with the hooks and without, in turn.

Promised: under 30 microseconds for a tiny CPU model. The models are so small that one step is little more than the
overhead of Python and torch, which is where recording shows most: a real step takes milliseconds.

Both kinds of block run in one process, in which the hooks are taken away and put back, as two processes differ by
more than what is measured. Each block is compared with its neighbour, so drifts of the machine cancel out; a process
counts with the median of these differences, and the median process is judged. Processor time is taken, not wall time,
which other work on the machine would add to. That work still empties the caches, which the hooks feel most; so does a
larger model, which is measured too, without a promise. One thread; `deterministic` is off, so that nothing but
recording is compared. The interpreter needs torch: name one with --python where that of reprobox has none.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from timing import ask, heading, judge, median, table

# Trains one of MODELS in blocks of 50 steps, two digests each, and prints the times of one step in microseconds: of the
# blocks without hooks and of those with them.
PROGRAM = """
import json, sys, time
import torch

torch.manual_seed(0)
if sys.argv[1] == "linear":
    inputs, targets = torch.randn(16, 8), torch.randn(16, 1)
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
else:
    inputs, targets = torch.randn(64, 64), torch.randn(64, 10)
    layers = [torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 256), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(256, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)

hooked = torch.autograd.backward
after_step = sys.modules["torch.optim.optimizer"]._global_optimizer_post_hooks
kept = dict(after_step)

def block(record, size=50):
    torch.autograd.backward = hooked if record else hooked.__wrapped__
    after_step.clear()
    after_step.update(kept if record else {})
    began = time.process_time()
    for _ in range(size):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
    return 1e6 * (time.process_time() - began) / size

block(True, 200)
pairs = [(block(False), block(True)) for _ in range(int(sys.argv[2]))]
print(json.dumps(list(zip(*pairs))))
"""
# What each is called, and whether the promise is about it.
MODELS = {"linear": ("Linear 8-1, SGD, batch 16", True), "mlp": ("MLP 64-256-256-10, AdamW, batch 64", False)}
WARM_UP, BLOCK = 200, 50
LIMIT_US = 30.0


def main() -> int:
    """Measure, print, and return 1 when the promise is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="an interpreter with torch (default: this one)")
    parser.add_argument("--rounds", type=int, default=5, help="processes per model")
    parser.add_argument("--blocks", type=int, default=40, help="pairs of blocks in each process")
    options = parser.parse_args()

    version = subprocess.run(
        [options.python, "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True, check=False
    )
    if version.returncode != 0:
        print(f"{options.python} has no torch: name an interpreter that has with --python", file=sys.stderr)
        return 2
    heading(f"Recording, {options.rounds} processes of {options.blocks} pairs of blocks each", docker=False)
    print(f"torch {version.stdout.strip()}, 1 thread\n")
    with tempfile.TemporaryDirectory(prefix="reprobox-benchmark-") as folder:
        site = lay_out(Path(folder))
        program = Path(folder) / "train.py"
        program.write_text(PROGRAM)
        kept = []
        for model, (title, promised) in MODELS.items():
            command = [options.python, str(program), model, str(options.blocks)]
            processes = [blocks(command, site, Path(folder) / "record", options.blocks) for _ in range(options.rounds)]
            added = report(title, processes)
            if promised:
                kept.append(judge(f"recording a step of {title}", added, LIMIT_US, "us"))
            print(flush=True)
    return 0 if all(kept) else 1


def lay_out(folder: Path) -> Path:
    """Copy the runtime to where a program imports it from; return that folder."""
    from reprobox.workflow.execute import lay_out_runtime

    site = folder / "site"
    lay_out_runtime(site)
    return site


def environment() -> dict[str, str]:
    """Return what both programs run with."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "REPROBOX_"))}
    return {**kept, "PYTHONHASHSEED": "42", "OMP_NUM_THREADS": "1", "MKL_DYNAMIC": "FALSE"}


def recorded_by(site: Path, record: Path, *, deterministic: bool = False, threads: int | None = 1) -> dict[str, str]:
    """Make the folder `record`; return the variable by which a Python records into it, with the runtime in `site`."""
    from reprobox.engines.start_file import START_FOLDER, write_start_files
    from reprobox.runtime import protocol
    from reprobox.runtime.seeding import SCHEME

    shutil.rmtree(record, ignore_errors=True)
    record.mkdir()
    config = {"seed": 42, "seed_scheme": SCHEME, "deterministic": deterministic, "threads": threads}
    (record / protocol.CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
    write_start_files(site, site=str(site), record=str(record))
    return {"PYTHONPATH": str(site / START_FOLDER)}


def blocks(command: list[str], site: Path, record: Path, pairs: int) -> tuple[list[float], list[float]]:
    """Run the program; return microseconds per step of the blocks without and with hooks.

    Looks whether every loss of those with hooks was recorded, and none of the others.
    """
    from reprobox.runtime import protocol

    variables = environment() | recorded_by(site, record)
    without, with_hooks = json.loads(ask(command, env=variables))
    stream = record / f"{protocol.STREAM_PREFIX}000{protocol.STREAM_SUFFIX}"
    losses = sum(line.startswith("loss\t") for line in stream.read_text(encoding="utf-8").splitlines())
    expected = WARM_UP + pairs * BLOCK
    if losses != expected:
        sys.exit(f"{losses} losses were recorded where {expected} were trained with the hooks")
    return without, with_hooks


def report(title: str, processes: list[tuple[list[float], list[float]]]) -> float:
    """Print one model's figures; return the microseconds that recording adds to a step."""
    rows = [(title, "bare", "recorded", "added")]
    added = []
    for number, (bare, recorded) in enumerate(processes, 1):
        added.append(median([other - one for one, other in zip(bare, recorded, strict=True)]))
        times = [f"{median(values):.1f} us/step" for values in (bare, recorded)]
        rows.append((f"process {number}", *times, f"{added[-1]:+.1f} us"))
    table(rows)
    return median(added)


if __name__ == "__main__":
    sys.exit(main())
