"""A virtual environment of a run's own upon one that lies in the cache, by which the runtime starts in its Pythons.

The cached one is not touched: whoever else uses it, at the same time or by hand, records nothing and waits for nothing.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from reprobox.engines.start_file import PTH_FILE, write_start_files
from reprobox.errors import EngineError

ENVIRONMENT = "env"
# Larger files are no scripts.
_LARGEST_SCRIPT = 1 << 20
# What the kernel reads of a script's first line (execve(2), before Linux 5.1).
_LONGEST_SHEBANG = 127
_SHARED = ("share", "etc", "include")


def make_prefix(environment: Path, site: Path, record: Path) -> Path:
    """Return a virtual environment in `site` with the packages, programs and files of `environment`, in whose Pythons
    the runtime starts and records into `record`. Raises EngineError when there is none at `environment`.
    """
    if not os.access(environment / "bin" / "python", os.X_OK):
        raise EngineError(f"there is no virtual environment at {environment}")
    site, record = site.absolute(), record.absolute()
    packages = next(iter(sorted(environment.glob("lib/python3*/site-packages"))), None)
    if packages is None:
        raise EngineError(f"there are no packages in the virtual environment at {environment}")
    prefix = site / ENVIRONMENT
    own = prefix / packages.relative_to(environment)
    shutil.rmtree(prefix, ignore_errors=True)
    own.mkdir(parents=True)
    (prefix / "lib64").symlink_to("lib")
    shutil.copyfile(environment / "pyvenv.cfg", prefix / "pyvenv.cfg")
    # As if they were installed here, with the .pth files among them.
    further = f"import site; site.addsitedir({str(packages)!a})\n"
    write_start_files(site, site=str(site), record=str(record), further=further)
    (own / PTH_FILE).symlink_to(site / PTH_FILE)
    for name in _SHARED:
        if (environment / name).exists():
            (prefix / name).symlink_to(environment / name)
    (prefix / "bin").mkdir()
    for program in sorted((environment / "bin").iterdir()):
        _place_program(program, environment, prefix)
    return prefix


def _place_program(program: Path, environment: Path, prefix: Path) -> None:
    """Put a program of the environment into the prefix, rewritten where it names the environment."""
    place = prefix / "bin" / program.name
    if program.is_symlink():
        place.symlink_to(program.readlink())  # the interpreter and its names
        return
    if program.is_dir() or program.stat().st_size > _LARGEST_SCRIPT:
        place.symlink_to(program)
        return
    content, before = program.read_bytes(), os.fsencode(environment)
    if before not in content or b"\0" in content:
        place.symlink_to(program)
        return
    first, newline, rest = content.replace(before, os.fsencode(prefix)).partition(b"\n")
    if first.startswith(b"#!" + os.fsencode(prefix)) and (len(first) > _LONGEST_SHEBANG or b" " in os.fsencode(prefix)):
        # As installers write it: a line that means one thing to the shell and another to Python.
        interpreter = first[2:].strip()
        first = b"#!/bin/sh\n'''exec' \"" + interpreter + b'" "$0" "$@"\n' + b"' '''"
    place.write_bytes(first + newline + rest)
    place.chmod(program.stat().st_mode & 0o777)
