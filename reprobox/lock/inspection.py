"""Run inside the environment that is captured: says which distributions are installed, and hashes their files.

It is handed to that environment's own interpreter as text, so it imports the standard library alone and keeps to
Python 3.9. Its answer is one JSON object on standard output.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any


def hash_of(path: Path) -> str:
    """Return `sha256=` and the digest as RECORD writes it, or "" for a file that is not there."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as handle:
            for block in iter(lambda: handle.read(1 << 20), b""):
                digest.update(block)
    except OSError:
        return ""
    return "sha256=" + base64.urlsafe_b64encode(digest.digest()).decode().rstrip("=")


def describe(distribution: metadata.Distribution) -> dict[str, Any]:
    """Return what is known of one distribution; `files` is None where it kept no RECORD."""
    direct = distribution.read_text("direct_url.json")
    listed = distribution.files if distribution.read_text("RECORD") is not None else None
    files = []
    for file in listed or ():
        if not str(file).endswith(".pyc"):
            recorded = f"{file.hash.mode}={file.hash.value}" if file.hash else ""
            files.append([str(file), recorded, hash_of(Path(str(distribution.locate_file(file))))])
    wheel = (distribution.read_text("WHEEL") or "").splitlines()
    return {
        "name": distribution.metadata["Name"],
        "version": distribution.version,
        "site": str(Path(str(distribution.locate_file("")))),
        "direct_url": json.loads(direct) if direct else None,
        "files": files if listed is not None else None,
        "tags": [line.partition(":")[2].strip() for line in wheel if line.startswith("Tag:")],
        "top_level": (distribution.read_text("top_level.txt") or "").split(),
    }


def main() -> None:
    """Describe every distribution that an import would find, the first of each name."""
    found: dict[str, Any] = {}
    for distribution in metadata.distributions():
        # PEP 503's normalised name.
        name = re.sub("[-_.]+", "-", distribution.metadata["Name"] or "").lower()
        if name and name not in found:
            found[name] = describe(distribution)
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    json.dump({"python": python, "distributions": list(found.values())}, sys.stdout)


main()
