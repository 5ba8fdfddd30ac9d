"""The constants that are part of every layer's bits; where things lie, `inside.py` says.

A change to anything that alters bits (a path, a time, a rule in `install.py`, `tarstream.py` or `debian.py`) must
come with a new ASSEMBLER_VERSION, because cached layers are found by it.
"""

from __future__ import annotations

from reprobox import inside

ASSEMBLER_VERSION = "1"
# The same for bytecode: a change of what pycompile.py writes, or of which sources share a job, makes a new one.
BYTECODE_SCHEME = "1"

# Folders that must be there to be mounted upon.
MOUNT_POINTS = (inside.RECORD[1:], inside.SITE[1:], inside.WORK[1:])

# 1980-01-01T00:00:00Z, the earliest time that a zip archive can hold: programs that zip their installed files (to ship
# code to workers, for instance) fail on anything earlier.
MTIME = 315532800
# The image config has no such reader, so it keeps the customary zero.
CREATED = "1970-01-01T00:00:00Z"


def site_packages(python: str) -> str:
    """Return the folder of installed packages for Python `3.11`, relative to the environment."""
    return f"lib/python{python}/site-packages"
