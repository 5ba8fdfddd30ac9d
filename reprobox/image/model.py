"""The Image as it is recorded: what it was assembled from and every digest by which an engine may know it."""

from __future__ import annotations

from dataclasses import dataclass, field

from reprobox.validation import OPTIONAL


@dataclass(frozen=True, kw_only=True)
class BaseRecord:
    """What the wheels were laid upon.

    `kind` is `debian`, `registry` or `local`; `reference` is what the user or the catalogue names (`bookworm`,
    `python:3.11-slim@sha256:...`, `my-image:tag`); `digest` pins it: of the root file system's tar for debian, the
    manifest digest for registry, the config's for local. `packages` lists `name=version` of the Debian packages where
    reprobox chose them, of the Python distributions where the base holds the environment, else nothing. `debs` lists
    `file=sha256` of the files that the Debian packages came in, as Debian's archive names them.
    """

    kind: str
    reference: str
    digest: str
    packages: tuple[str, ...] = ()
    debs: tuple[str, ...] = field(default=(), metadata=OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """The assembled image. All digests are `sha256:` followed by 64 hex digits.

    `input_digest` names the inputs (base, wheels, assembler version) and is known before anything is built;
    `diff_ids` are the digests of the uncompressed layers, base first; `config_digest` is the image ID of Docker's
    classic store, `manifest_digest` that of its containerd store.
    """

    base: BaseRecord
    platform: str
    input_digest: str
    diff_ids: tuple[str, ...]
    config_digest: str
    manifest_digest: str
