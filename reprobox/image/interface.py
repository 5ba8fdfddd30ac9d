"""What image assembly needs from an engine that keeps images (the docker engine offers it)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol


@dataclass(frozen=True, kw_only=True)
class StoredImage:
    """An image that the engine holds: its `id`, its layers' `diff_ids` (base first), its OCI `config` (`Env`, `Cmd`,
    ... in OCI spelling), `architecture` (`amd64`), `os`, and the `name@sha256:...` forms it was pulled by.
    """

    id: str
    diff_ids: tuple[str, ...]
    config: Mapping[str, Any]
    architecture: str
    os: str
    repo_digests: tuple[str, ...]


class ImageStore(Protocol):
    """The image side of an engine."""

    def find_image(self, reference: str) -> StoredImage | None:
        """Return the image of that ID, name or `name@digest` if the engine has it, else None."""
        ...

    def pull_image(self, reference: str) -> StoredImage:
        """Fetch a registry image. Raises ImageError saying whether the registry or the reference was the trouble."""
        ...

    def registry_knows(self, reference: str) -> bool | None:
        """Say whether a registry knows an image of the engine by this `name@digest`; None when that cannot be told."""
        ...

    def load_image(self, archive: Iterable[bytes]) -> None:
        """Load an image archive (docker-archive and OCI layout in one). Raises ImageError with the engine's words."""
        ...

    def shares_layers(self) -> bool:
        """Say whether an archive may lack the lowest layers of its image if the engine holds them under another."""
        ...

    def export_image(self, reference: str) -> AbstractContextManager[BinaryIO]:
        """Give the engine's own archive of an image (`docker save`), as a file that can be read once."""
        ...

    def run_once(self, image: str, command: tuple[str, ...], *, folder: Path | None = None) -> str:
        """Run `command` in a throw-away container (no network, no rights); return its standard output.

        Nothing is mounted but `folder`, at `layout.WORK`, where the command may write.
        Raises ImageError, with what the command wrote, when it exits with anything but 0.
        """
        ...

    def tag_image(self, image_id: str, name: str, tag: str) -> None:
        """Give the image a name, so that `docker images` tells what it is and a prune of unnamed images spares it."""
        ...
