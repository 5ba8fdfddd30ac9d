"""How making layers uses the cores: the same large wheels made into layers on one core, two, four, and all.

Promised: on all cores faster than on one, for several wheels and for one alone. The wheels are made for the purpose, of
the largest shared libraries of an environment (`--folder`, such as the site-packages that hold torch); no network and
no Docker are needed. Times are of whole assemblies into an empty cache, by the wall.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from timing import heading, interleaved, judge, median, table

if TYPE_CHECKING:
    from reprobox.lock.model import LockedPackage


def main() -> int:
    """Measure, print, and return 1 when a promise is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where shared libraries are looked for")
    parser.add_argument("--wheels", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    heading("Wheels made into layers", docker=False)
    found = [path for path in options.folder.rglob("*.so*") if path.is_file() and not path.is_symlink()]
    libraries = sorted(found, key=lambda path: (-path.stat().st_size, path))[: options.wheels]
    if not libraries:
        sys.exit(f"no shared library under {options.folder}")
    everything = sorted(os.sched_getaffinity(0))
    counts = sorted({count for count in (1, 2, 4, 8, 16, len(everything)) if count <= len(everything)})
    held = True
    with tempfile.TemporaryDirectory(prefix="reprobox-benchmark-") as name:
        folder = Path(name)
        with ProcessPoolExecutor() as pool:
            wheels = list(pool.map(partial(packed, folder), range(len(libraries)), libraries))
        for title, chosen in ((f"{len(wheels)} wheels", wheels), ("the largest alone", wheels[:1])):
            size = sum(path.stat().st_size for path in libraries[: len(chosen)])
            cases = {
                f"{count} core{'s' * (count > 1)}": partial(assembled, chosen, folder, everything[:count])
                for count in counts
            }
            times = {case: median(values) for case, values in interleaved(cases, options.rounds, warm_up=False).items()}
            one = times["1 core"]
            table(
                [
                    (f"{title}, {size / 1e9:.1f} GB", "median", "GB/s", "faster than on one"),
                    *(
                        (case, f"{taken:.2f} s", f"{size / taken / 1e9:.2f}", f"{one / taken:.2f} x")
                        for case, taken in times.items()
                    ),
                ]
            )
            if len(counts) > 1:
                held &= judge(f"{title}: all cores over one", one / min(times.values()), 1.1, "x", at_least=True)
    print(f"peak memory of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    return 0 if held else 1


def packed(folder: Path, number: int, library: Path) -> tuple[LockedPackage, Path]:
    """Make a wheel of one library; return it as the lock has it."""
    import hashlib

    from reprobox.lock.model import LockedPackage
    from reprobox.lock.repack import repack, wheel_name

    name = f"library{number}"
    tags = ("py3-none-any",)
    path = folder / wheel_name(name, "1.0", tags)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode()
    repack(f"{name}-1.0", tags, {f"{name}/{library.name}": library, f"{name}-1.0.dist-info/METADATA": metadata}, path)
    with path.open("rb") as source:
        sha256 = hashlib.file_digest(source, "sha256").hexdigest()
    return LockedPackage(name=name, version="1.0", file=path.name, sha256=sha256), path


def assembled(wheels: Sequence[tuple[LockedPackage, Path]], folder: Path, cores: Sequence[int]) -> float:
    """Assemble an image of the wheels in an empty cache, on these cores alone; return the seconds it took."""
    from reprobox.image.assemble import assemble
    from reprobox.image.bases import Base
    from reprobox.image.model import BaseRecord
    from reprobox.progress import Observer

    # The base has no part in what is measured: one without layers.
    base = Base(
        record=BaseRecord(kind="debian", reference="none", digest="sha256:" + "0" * 64),
        layers=(),
        python="3.11",
        python_executable="/usr/bin/python3.11",
        glibc=(2, 36),
        architecture="amd64",
    )
    cache = folder / "cache"
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    started = time.perf_counter()
    try:
        assemble(base, wheels, cache=cache, observer=Observer())
        return time.perf_counter() - started
    finally:
        os.sched_setaffinity(0, before)
        shutil.rmtree(cache)


if __name__ == "__main__":
    sys.exit(main())
