"""What comes of not calling MKL's vector functions once before the program (what that costs: `startup.py`).

Promised: no wrong number after it. The fault itself (https://github.com/pytorch/pytorch/issues/188792) is a race, so
how often it shows belongs to the machine: many processes compute with four threads each, as the first thing that they
ask of torch, three functions of a large tensor, each twice; the two results must be the same bits.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from timing import ask, heading, table, verdict

WARMUP = Path(__file__).parent.parent / "reprobox" / "runtime" / "warmup.py"

# Each child is forked from a process that has imported torch and computed nothing: as good as a fresh one, and quicker.
FAULT = """
import json, os, runpy, sys
import torch

warmup, processes, warmed = runpy.run_path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "warmed"
names = warmup["VECTOR_FUNCTIONS"]

def wrong_calls(number):
    torch.set_num_threads(4)
    if warmed:
        warmup["call_vector_functions"](torch)
    dtype = (torch.float32, torch.float64)[number // len(names) % 2]
    values = torch.linspace(0.001, 0.999, 4 * 32768, dtype=dtype)  # torch gives each thread at least 32768 of them
    found = []
    for call in range(3):
        name = names[(number + call) % len(names)]
        first, second = getattr(torch, name)(values), getattr(torch, name)(values)
        if not torch.equal(first, second):
            found.append([call, name, int((first != second).sum())])
    return found

found = []
for number in range(processes):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, json.dumps(wrong_calls(number)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        found += json.load(answer)
    os.waitpid(child, 0)
print(json.dumps(found))
"""


def main() -> int:
    """Measure, print, and return 1 when a promise is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has torch")
    parser.add_argument("--processes", type=int, default=3000, help="processes that try the fault, each way")
    options = parser.parse_args()

    build = ask([options.python, "-c", "import torch; print(torch.__version__, torch.backends.mkl.is_available())"])
    version, has_mkl = build.split()
    heading(f"First calls of MKL's vector functions, torch {version}", docker=False)
    if has_mkl != "True":
        sys.exit("this torch was built without MKL, so there is nothing to call")
    plain, warmed = (wrong(options.python, options.processes, way) for way in ("plain", "warmed"))
    counts = [("", "processes", "wrong calls", "which of the three")]
    for label, found in (("as torch is", plain), ("called once before", warmed)):
        places = sorted({f"{call + 1}" for call, _, _ in found})
        counts.append((label, str(options.processes), str(len(found)), ", ".join(places) or "-"))
    table(counts)
    for call, name, elements in plain[:3]:
        print(f"e.g. torch.{name}, call {call + 1}: {elements} of {4 * 32768} numbers wrong")
    return 0 if verdict("no wrong number after it", not warmed) else 1


def wrong(python: str, processes: int, way: str) -> Sequence[tuple[int, str, int]]:
    """Return which first calls gave other numbers than the second: how many came before, the function, how many."""
    found: Sequence[tuple[int, str, int]] = json.loads(ask([python, "-c", FAULT, str(WARMUP), str(processes), way]))
    return found


if __name__ == "__main__":
    sys.exit(main())
