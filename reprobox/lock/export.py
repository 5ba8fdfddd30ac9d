"""A Lock written for other tools."""

from __future__ import annotations

from reprobox.lock.model import Lock


def export_requirements(lock: Lock) -> str:
    """Return requirements text with every wheel pinned by hash, for `pip install --require-hashes -r`."""
    return "".join(
        f"{package.name}=={package.version} \\\n    --hash=sha256:{package.sha256}\n" for package in lock.packages
    )
