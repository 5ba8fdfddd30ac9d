"""The artefact: what a run was, bound into one file that can be read again, checked and replayed."""

from __future__ import annotations

from reprobox.manifest.model import Manifest
from reprobox.manifest.store import dump_manifest, manifest_digest, manifest_to_data, read_manifest, write_manifest

__all__ = ["Manifest", "dump_manifest", "manifest_digest", "manifest_to_data", "read_manifest", "write_manifest"]
