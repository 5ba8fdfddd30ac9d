"""What recording costs per training step: the same program bare and with the runtime switched on.

Nothing is promised in microseconds; the figure is there to be kept small. The models are so tiny that one step is
little more than the overhead of Python and torch, which is where recording shows most: a real step takes milliseconds.
Both run on one thread with the same environment; `deterministic` is off, so that nothing but seeding and recording is
added. Processor time is counted, not wall time, which other work on the machine would add to. The interpreter needs
torch: name one with --python where that of reprobox has none.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from timing import ask, heading, interleaved, median, table

# Trains one of MODELS and prints the microseconds per step: the median of blocks of steps, after some to warm up.
PROGRAM = """
import statistics, sys, time
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

blocks, size = [], 100
for _ in range(int(sys.argv[2]) // size):
    began = time.process_time()
    for _ in range(size):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
    blocks.append((time.process_time() - began) / size)
print(1e6 * statistics.median(blocks[len(blocks) // 4 :]))
"""
MODELS = {"linear": "Linear 8-1, SGD, batch 16", "mlp": "MLP 64-256-256-10, AdamW, batch 64"}
BARE, RECORDED = "bare", "recorded"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="an interpreter with torch (default: this one)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=3000)
    options = parser.parse_args()

    version = subprocess.run(
        [options.python, "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True, check=False
    )
    if version.returncode != 0:
        print(f"{options.python} has no torch: name an interpreter that has with --python", file=sys.stderr)
        return 2
    heading(f"Recording, {options.steps} steps, {options.rounds} interleaved runs each", docker=False)
    print(f"torch {version.stdout.strip()}, 1 thread\n")
    with tempfile.TemporaryDirectory(prefix="reprobox-benchmark-") as folder:
        site = lay_out(Path(folder))
        program = Path(folder) / "train.py"
        program.write_text(PROGRAM)
        for model in MODELS:
            command = [options.python, str(program), model, str(options.steps)]
            cases = {
                BARE: partial(bare, command),
                RECORDED: partial(recorded, command, site, Path(folder) / "record", options.steps),
            }
            times = interleaved(cases, options.rounds)
            report(model, times)
    return 0


def lay_out(folder: Path) -> Path:
    """Copy the runtime to where a program imports it from, as `workflow/execute.py` does; return that folder."""
    from reprobox.runtime import protocol

    site, source = folder / "site", Path(protocol.__file__).parent
    ignore = shutil.ignore_patterns("__pycache__", "bootstrap")
    shutil.copytree(source, site / "reprobox" / "runtime", ignore=ignore)
    shutil.copyfile(source / "bootstrap" / "sitecustomize.py", site / "sitecustomize.py")
    return site


def environment() -> dict[str, str]:
    """Return what both programs run with."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "REPROBOX_"))}
    return {**kept, "PYTHONHASHSEED": "42", "OMP_NUM_THREADS": "1", "MKL_DYNAMIC": "FALSE"}


def bare(command: list[str]) -> float:
    """Run the program as it is; return microseconds per step."""
    return float(ask(command, env=environment()))


def recorded(command: list[str], site: Path, record: Path, steps: int) -> float:
    """Run it with the runtime; return microseconds per step, after a look at whether every loss was recorded."""
    from reprobox.runtime import protocol
    from reprobox.runtime.seeding import SCHEME

    shutil.rmtree(record, ignore_errors=True)
    record.mkdir()
    config = {"seed": 42, "seed_scheme": SCHEME, "deterministic": False, "threads": 1}
    (record / protocol.CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
    found = float(ask(command, env={**environment(), "PYTHONPATH": str(site), protocol.RECORD_VARIABLE: str(record)}))
    stream = record / f"{protocol.STREAM_PREFIX}000{protocol.STREAM_SUFFIX}"
    losses = sum(line.startswith("loss\t") for line in stream.read_text(encoding="utf-8").splitlines())
    if losses != steps:
        sys.exit(f"{losses} losses were recorded where {steps} were trained")
    return found


def report(model: str, times: dict[str, list[float]]) -> None:
    """Print one model's figures."""
    without = median(times[BARE])
    rows = [(MODELS[model], "median", "fastest", "added", "ratio")]
    for name, values in times.items():
        middle = median(values)
        rows.append(
            (
                name,
                f"{middle:.1f} us/step",
                f"{min(values):.1f} us/step",
                f"{middle - without:+.1f} us",
                f"{middle / without:.2f} x",
            )
        )
    table(rows)


if __name__ == "__main__":
    sys.exit(main())
