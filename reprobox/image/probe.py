"""What Python and C library a base image holds: asked of the image itself, once, and remembered by its ID."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reprobox import inside
from reprobox.cache import keep
from reprobox.digests import hex_of
from reprobox.errors import ImageError
from reprobox.image.interface import ImageStore
from reprobox.image.layers import read_json

_FORMAT = 3
_MARK = "reprobox-probe "
# Something is mounted there, and the name written into a definition file.
_PLACE = re.compile(r"(?:/[A-Za-z0-9._+@-]+)+")

# The interpreter below a virtual environment is wanted, because the base may itself be an image with an environment.
_QUESTIONS = f"""
import importlib.metadata, json, os, platform, shutil, sys
try:
    libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
except (ValueError, OSError, AttributeError):
    libc = ""
print({_MARK!r} + json.dumps({{
    "implementation": platform.python_implementation(),
    "python": "%d.%d" % sys.version_info[:2],
    "executable": os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
    "libc": libc,
    "occupied": os.path.lexists({inside.ENVIRONMENT!r}),
    "python_name": bool(shutil.which("python")),
    "launcher": sys.executable,
    "archive": next((path for path in sys.path if os.path.basename(path).startswith("python")
                     and path.endswith(".zip") and not os.path.exists(path)), ""),
    "packages": sorted({{
        "%s=%s" % (found.metadata["Name"], found.version)
        for found in importlib.metadata.distributions() if found.metadata["Name"]
    }}),
}}))
"""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """`python` is `3.11`, `executable` its path in the image, `glibc` its version; `occupied` says whether something
    lies already where the environment goes. `launcher` is the interpreter as a program of the image starts it, which
    in a virtual environment is not `executable`; `archive` is where it would look for an archive of its standard
    library, empty where there is one; `python_name` says whether it is called `python` too; `packages` are
    the Python distributions that it finds, `name=version`, sorted.
    """

    python: str
    executable: str
    glibc: tuple[int, int]
    occupied: bool
    launcher: str
    archive: str
    python_name: bool
    packages: tuple[str, ...]


def probe(image_id: str, reference: str, store: ImageStore, *, cache: Path) -> Probe:
    """Ask the image. Raises ImageError when it has no CPython, or another C library than glibc."""
    remembered = cache / "bases" / f"probe-{_FORMAT}-{hex_of(image_id)}.json"
    answer = read_json(remembered)
    if isinstance(answer, dict):
        return _understood(answer, reference)
    answer = _ask(image_id, reference, store)
    found = _understood(answer, reference)
    keep(remembered, json.dumps(answer).encode())
    return found


def _ask(image_id: str, reference: str, store: ImageStore) -> dict[str, Any]:
    try:
        output = store.run_once(image_id, ("python3", "-c", _QUESTIONS))
    except ImageError as error:
        raise ImageError(
            f"the base image {reference} has no python3 that runs",
            details=(error.message, *error.details),
            hint="name a base that has Python on its PATH, such as python:3.11-slim",
        ) from error
    for line in output.splitlines():
        if line.startswith(_MARK):
            answer: dict[str, Any] = json.loads(line[len(_MARK) :])
            return answer
    raise ImageError(f"the base image {reference} gave no answer about its Python", details=(output[:500],))


def _understood(answer: dict[str, Any], reference: str) -> Probe:
    if answer["implementation"] != "CPython":
        raise ImageError(
            f"the base image {reference} has {answer['implementation']}, wheels here are for CPython",
            hint="name a base with CPython, such as python:3.11-slim",
        )
    name, _, version = str(answer["libc"]).partition(" ")
    numbers = version.split(".")
    if name != "glibc" or len(numbers) < 2:
        raise ImageError(
            f"the base image {reference} does not use glibc (it is probably Alpine)",
            details=("torch and most compiled wheels exist for glibc only",),
            hint="name a Debian-based image, such as python:3.11-slim",
        )
    return Probe(
        python=str(answer["python"]),
        executable=str(answer["executable"]),
        glibc=(int(numbers[0]), int(numbers[1])),
        occupied=bool(answer["occupied"]),
        launcher=str(answer["launcher"]),
        archive=str(answer["archive"]) if _PLACE.fullmatch(str(answer["archive"])) else "",
        python_name=bool(answer["python_name"]),
        packages=tuple(str(package) for package in answer["packages"]),
    )
