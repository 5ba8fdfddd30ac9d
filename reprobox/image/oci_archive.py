"""An assembled Image as one file: an OCI archive, which is a tar of an OCI layout (OCI image spec 1.1)."""

from __future__ import annotations

from pathlib import Path

from reprobox.errors import ImageError
from reprobox.files import writing
from reprobox.image.assemble import Image, rebuild_layers
from reprobox.image.interface import ImageStore
from reprobox.image.layers import total_size
from reprobox.image.load import Archive
from reprobox.progress import Observer

_STEP = 16 << 20


def write_archive(image: Image, store: ImageStore, target: Path, *, observer: Observer) -> None:
    """Write the image to `target`, which is there whole or not at all; the same image gives the same bytes.

    A cached layer that is missing or damaged is made again. Raises ImageError, and OSError for `target`'s disk.
    """
    total = total_size(image.layers)
    for _ in image.layers:
        # Its own reports would speak of an engine.
        archive = Archive(image, store, Observer(), present=0)
        told = 0
        try:
            with writing(target) as out:
                for chunk in archive.chunks():
                    out.write(chunk)
                    if out.size - told >= _STEP:
                        told = out.size
                        observer.working("image", "writing the archive", min(out.size, total), total)
            return
        except ImageError:
            if archive.damaged is None:
                raise
            rebuild_layers(image, frozenset({archive.damaged.diff_id}), observer=observer)
    raise ImageError("cached layers are damaged as soon as they are made", hint="check the cache's disk")
