"""Long runs: what the manifest of a million and of ten million steps takes, how long it is made, shown and compared.

    python benchmarks/long.py [--steps 1000000 10000000]

A record is written as the runtime writes one (a float32 loss a step, an optimizer, digests every 25 steps), and
`reprobox recover` makes the manifest of it, as at a run's end; then `show` and `compare` with itself. Each command is a
process of its own, whose largest memory the kernel tells (getrusage(2)). Needs no engine, no torch and 3 GB of disk.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from timing import heading

from reprobox.manifest.store import read_manifest, write_manifest
from reprobox.runtime import protocol
from reprobox.trajectory.codec import trajectory_digest

ASSET = Path(__file__).parent.parent / "tests" / "assets" / "manifest-1.yaml"
EVERY = 25


def write_record(folder: Path, steps: int) -> None:
    """Write the stream of a training of so many steps."""
    noise = random.Random(1)
    with (folder / f"{protocol.STREAM_PREFIX}000{protocol.STREAM_SUFFIX}").open("w") as out:
        out.write(protocol.STREAM_HEADER + "process\troot\n")
        for step in range(steps):
            bits = struct.pack(">f", 2.0 / (1 + step / 1000) + noise.random() / 10).hex()
            out.write(f"loss\t{step}\t{step}\tfloat32\t{bits}\n")
            if step == 0:
                out.write("optimizer\t0\t0\tSGD\n")
            out.write(f"step\t{step}\t0\n")
            if step == 0 or (step + 1) % EVERY == 0:
                kinds = ("weights", "rng") if step else ("gradients", "weights", "rng")
                out.writelines(
                    f"digest\t{step}\t{what}\t0\t{step + 1}\t{noise.getrandbits(64):016x}\n" for what in kinds
                )
        out.write("lost\tinitial\tno modules\nlost\tgradient\tno modules\nlost\tstate\tno modules\n")
        out.write(f"final\t0\tsha256:{1:064x}\nend\n")


def begin(root: Path) -> Path:
    """Make the folder of a run that began and never ended."""
    run = root / "runs" / "long-0001"
    (run / "record").mkdir(parents=True)
    (run / "work").mkdir()
    known = read_manifest(ASSET)
    spec = replace(known.spec, trajectory=replace(known.spec.trajectory, digest_every=EVERY))
    result = replace(
        known.result,
        steps=0,
        optimizer_steps=0,
        first_loss=None,
        final_loss=None,
        metrics={},
        trajectory=trajectory_digest(()),
        weights=None,
        outputs=(),
    )
    run_record = replace(known.run, status="interrupted", exit_code=None)
    write_manifest(replace(known, spec=spec, result=result, run=run_record, streams=()), run / "begun.yaml")
    return run


def timed(*command: str) -> tuple[float, int]:
    """Run a command; return seconds and the most memory that it had, in MiB."""
    before = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    # Exit code 5: a run that was recovered is never judged as a whole.
    if os.waitstatus_to_exitcode(status) not in (0, 5):
        raise SystemExit(f"{command}: {status}\n{errors.decode()}")
    return time.monotonic() - before, usage.ru_maxrss // 1024


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=[1_000_000, 10_000_000])
    arguments = parser.parse_args()
    heading("Long runs", docker=False)
    reprobox = str(Path(sys.executable).parent / "reprobox")
    for steps in arguments.steps:
        root = Path(tempfile.mkdtemp(prefix="reprobox-long-"))
        try:
            run = begin(root)
            write_record(run / "record", steps)
            stream = next((run / "record").iterdir()).stat().st_size
            print(f"\n{steps:,} steps, record {stream / 1e6:.0f} MB")
            rows = [("made", timed(reprobox, "recover", str(run)))]
            manifest = (run / "manifest.yaml").stat().st_size
            beside = sum(path.stat().st_size for path in (run / "trajectory").glob("*"))
            rows.append(("shown", timed(reprobox, "show", str(run))))
            rows.append(("compared", timed(reprobox, "compare", str(run), str(run))))
            print(f"manifest {manifest / 1e6:.1f} MB, beside it {beside / 1e6:.1f} MB")
            for name, (seconds, memory) in rows:
                print(f"{name:10} {seconds:7.1f} s   {memory:6} MiB")
        finally:
            shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
