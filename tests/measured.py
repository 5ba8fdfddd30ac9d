"""For programs that are not given all variables of the tests, but are to be counted where coverage is asked for."""

from __future__ import annotations

import os


def measured() -> dict[str, str]:
    """Return the variables that have coverage count the lines that a child process runs; none unless it counts here.

    Not for programs whose start is what is tested: coverage imports `random` and others before them.
    """
    return {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
