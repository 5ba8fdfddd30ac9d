"""The two JSON documents of an OCI image, byte for byte the same for the same image (OCI image spec 1.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reprobox import inside
from reprobox.digests import canonical, digest_of, hex_of
from reprobox.image.layers import Layer
from reprobox.image.layout import CREATED
from reprobox.registry.media_types import CONFIG_TYPE, INDEX_TYPE, LAYER_TYPE, MANIFEST_TYPE

INPUT_LABEL = "org.reprobox.input"


def blob_path(digest: str) -> str:
    """Return where a blob lies in an OCI layout."""
    return "blobs/sha256/" + hex_of(digest)


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
    env["PATH"] = f"{inside.ENVIRONMENT}/bin:{env.get('PATH') or inside.DEFAULT_PATH}"
    if virtual:
        env["VIRTUAL_ENV"] = inside.ENVIRONMENT
    env["LANG"] = "C.UTF-8"
    return canonical(
        {
            "architecture": architecture,
            "config": {
                "Env": [f"{key}={value}" for key, value in sorted(env.items())],
                "Labels": {INPUT_LABEL: input_digest},
                "WorkingDir": inside.WORK,
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
