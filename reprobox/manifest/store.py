"""Reads and writes `manifest.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reprobox.manifest.consistency import manifest_problems
from reprobox.manifest.format import Format
from reprobox.manifest.model import SCHEMA_VERSION, Manifest
from reprobox.manifest.rules import RULES
from reprobox.validation import to_plain

MAX_MANIFEST_BYTES = 64_000_000

HEADER = """\
# This is a reprobox manifest: the record of one training run, to the bit, and all that is needed to repeat it.
#   reprobox replay manifest.yaml     rebuilds the environment, trains again and compares
#   reprobox show manifest.yaml       tells what was run, where and with what
# It is not meant to be edited: the digest below covers everything but the signatures.

"""

MANIFEST_FORMAT = Format(
    model=Manifest,
    what="manifest",
    marker="reprobox_manifest",
    schema=SCHEMA_VERSION,
    header=HEADER,
    max_bytes=MAX_MANIFEST_BYTES,
    rules=RULES,
    problems=manifest_problems,
)


def manifest_digest(manifest: Manifest) -> str:
    """Return the digest that names this manifest: `sha256:` over its content without digest and signatures."""
    return MANIFEST_FORMAT.digest(manifest)


def manifest_to_data(manifest: Manifest) -> dict[str, Any]:
    """Return the manifest as fresh plain data with the keys of the file, but without its digest."""
    data: dict[str, Any] = to_plain(manifest)
    return data


def dump_manifest(manifest: Manifest) -> bytes:
    """Return the text of `manifest.yaml`. Raises ManifestError when it would not be read again."""
    return MANIFEST_FORMAT.dump(manifest)


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write the manifest to `path` in one go. Raises ManifestError when it would not be read again."""
    MANIFEST_FORMAT.write(manifest, path)


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest, whoever wrote it.

    Raises ManifestError when it is missing, too large, not YAML, no manifest, truncated, invalid or edited;
    NewerSchemaError when a later reprobox wrote it.
    """
    return MANIFEST_FORMAT.read(path)
