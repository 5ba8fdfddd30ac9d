"""How long `reprobox --help` takes beyond an interpreter that does nothing.

Promised: the medians differ by under 100 ms. `import click` is context: reprobox's command line is built on it.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial

from timing import heading, interleaved, judge, median, reprobox, seconds, table

LIMIT_MS = 100.0


def main() -> int:
    """Measure, print, and return 1 when the promise is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds

    heading(f"Start of the command line, {rounds} interleaved runs each", docker=False)
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "python -c 'import click'": [sys.executable, "-c", "import click"],
        "reprobox --help": [*reprobox(), "--help"],
    }
    times = interleaved({name: partial(seconds, command) for name, command in commands.items()}, rounds)
    bare = median(times["python -c pass"])
    rows = [("", "median", "fastest", "beyond python -c pass", "ratio")]
    for name, values in times.items():
        middle = median(values)
        rows.append(
            (
                name,
                f"{1e3 * middle:.1f} ms",
                f"{1e3 * min(values):.1f} ms",
                f"{1e3 * (middle - bare):.1f} ms",
                f"{middle / bare:.2f} x",
            )
        )
    table(rows)
    added = 1e3 * (median(times["reprobox --help"]) - bare)
    return 0 if judge("reprobox --help beyond python -c pass", added, LIMIT_MS, "ms") else 1


if __name__ == "__main__":
    sys.exit(main())
