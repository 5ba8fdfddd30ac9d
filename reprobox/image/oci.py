"""The two JSON documents of an OCI image, byte for byte the same for the same image (OCI image spec 1.1)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from reprobox.image.layers import Layer
from reprobox.image.layout import CREATED, ENVIRONMENT, WORK

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
INPUT_LABEL = "org.reprobox.input"

# What Docker gives a container whose image names no PATH.
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def canonical(document: Any) -> bytes:
    """Return JSON with sorted keys, no spaces and no escapes beyond those that JSON demands, in UTF-8."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest_of(content: bytes) -> str:
    """Return `sha256:` of `content`."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def blob_path(digest: str) -> str:
    """Return where a blob lies in an OCI layout."""
    return "blobs/sha256/" + digest.removeprefix("sha256:")


def image_config(
    layers: Sequence[Layer],
    base_env: Mapping[str, str],
    architecture: str,
    input_digest: str,
    *,
    virtual: bool = True,
) -> bytes:
    """Return the image config. Neither entry point nor command are taken from the base: a Plan names its command.

    `virtual` says whether the environment is a virtual one of ours, or the base's own.
    """
    env = dict(base_env)
    env["PATH"] = f"{ENVIRONMENT}/bin:{env.get('PATH') or _DEFAULT_PATH}"
    if virtual:
        env["VIRTUAL_ENV"] = ENVIRONMENT
    env["LANG"] = "C.UTF-8"
    return canonical(
        {
            "architecture": architecture,
            "config": {
                "Env": [f"{key}={value}" for key, value in sorted(env.items())],
                "Labels": {INPUT_LABEL: input_digest},
                "WorkingDir": WORK,
            },
            "created": CREATED,
            "history": [{"created": CREATED, "created_by": layer.made_from} for layer in layers],
            "os": "linux",
            "rootfs": {"diff_ids": [layer.diff_id for layer in layers], "type": "layers"},
        }
    )


def image_manifest(config: bytes, layers: Sequence[Layer]) -> bytes:
    """Return the image manifest; layers are uncompressed, so a layer's digest is its diff_id."""
    return canonical(
        {
            "config": {"digest": digest_of(config), "mediaType": CONFIG_TYPE, "size": len(config)},
            "layers": [{"digest": layer.diff_id, "mediaType": LAYER_TYPE, "size": layer.size} for layer in layers],
            "mediaType": MANIFEST_TYPE,
            "schemaVersion": 2,
        }
    )


def layout_index(manifest: bytes, architecture: str) -> bytes:
    """Return the `index.json` of an OCI layout that holds this one image."""
    descriptor = {
        "digest": digest_of(manifest),
        "mediaType": MANIFEST_TYPE,
        "platform": {"architecture": architecture, "os": "linux"},
        "size": len(manifest),
    }
    return canonical({"manifests": [descriptor], "mediaType": INDEX_TYPE, "schemaVersion": 2})
