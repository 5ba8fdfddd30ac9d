"""The image side of the docker engine: find, fetch, load, export and name images (see `image/interface.py`)."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, cast

from reprobox import inside
from reprobox.engines.docker_calls import Calls, DockerRefusedError
from reprobox.engines.docker_plan import (
    GpuChoice,
    container_name,
    container_user,
    finds_layers,
    is_containerd_store,
    once_to_container,
)
from reprobox.engines.docker_run import lent, running
from reprobox.engines.owner import this_process
from reprobox.errors import ImageError
from reprobox.image.interface import StoredImage

# The keys of an image's config that the OCI image specification (1.1, config.md) knows; the engine adds its own.
_OCI_CONFIG = ("User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal")

# moby, daemon/containerd/image_exporter.go
_NOT_UNPACKED = "Error unpacking image"

_MOST_OUTPUT = 8 << 20

# Words by which Docker engines from 20.10 to 29 say what was wrong with a pull.
_UNREACHABLE = re.compile(
    r"dial tcp|no such host|connection refused|i/o timeout|Client\.Timeout|TLS handshake|x509|network is unreachable|"
    r"server misbehaving|EOF|proxyconnect|deadline exceeded|connection reset",
    re.IGNORECASE,
)
_RATE = re.compile(r"toomanyrequests|rate limit", re.IGNORECASE)
_UNKNOWN = re.compile(
    r"manifest unknown|not found|does not exist|access denied|unauthorized|authentication required|invalid reference",
    re.IGNORECASE,
)


class DockerImages:
    """Implements ImageStore over a connection."""

    def __init__(self, calls: Calls) -> None:
        """Keep images in the daemon behind `calls`."""
        self._calls = calls

    def find_image(self, reference: str) -> StoredImage | None:
        """Return the image of that ID, name or `name@digest` if the engine has it, else None.

        Raises ImageError when `reference` has not the form of one.
        """
        try:
            with self._calls.asking(f"looking for the image {reference}"):
                found = self._calls.api.inspect_image(reference)
        except DockerRefusedError as error:
            if error.status == 404:
                return None
            raise ImageError(error.message) from error
        config = found.get("Config") or {}
        return StoredImage(
            id=found["Id"],
            diff_ids=tuple(found["RootFS"].get("Layers") or ()),
            config={key: config[key] for key in _OCI_CONFIG if config.get(key)},
            architecture=found["Architecture"],
            os=found["Os"],
            repo_digests=tuple(found.get("RepoDigests") or ()),
        )

    def pull_image(self, reference: str) -> StoredImage:
        """Fetch a registry image. Raises ImageError saying whether the registry or the reference was the trouble."""
        try:
            with self._calls.asking(f"pulling {reference}"):
                for event in self._calls.api.pull(reference, stream=True, decode=True):
                    _raise_for_event(event)
        except DockerRefusedError as error:
            raise _pull_error(reference, error.words) from error
        except _EventError as error:
            raise _pull_error(reference, str(error)) from error
        found = self.find_image(reference)
        if found is None:
            raise ImageError(f"{reference} was pulled, but the Docker engine does not have it")
        return found

    def registry_knows(self, reference: str) -> bool | None:
        """Say whether a registry knows an image of the engine by this `name@digest`; None when that cannot be told.

        Docker's containerd store gives such a name to every image that has a tag, those built here too, so there the
        registry is asked. Other engines give it to what was pulled or pushed.
        """
        if not is_containerd_store(self._calls.facts()):
            return True
        try:
            with self._calls.asking(f"asking the registry for {reference}"):
                self._calls.api.inspect_distribution(reference)
        except DockerRefusedError as error:
            return False if _UNKNOWN.search(error.words) and not _UNREACHABLE.search(error.words) else None
        return True

    def load_image(self, archive: Iterable[bytes]) -> None:
        """Load an image archive. Raises ImageError with the engine's words, and whatever `archive` itself raises."""
        source = _Remembering(archive)
        try:
            with self._calls.asking("loading the image"):
                for event in self._calls.api.load_image(iter(source)):
                    _raise_for_event(event)
        except _EventError as error:
            raise ImageError(f"the Docker engine refused the image: {error}") from error
        except Exception as error:
            # The SDK takes an error of the archive, met while it sends, for one of the connection.
            if source.failure is not None:
                raise source.failure from None
            if isinstance(error, DockerRefusedError):
                raise ImageError(f"the Docker engine refused the image: {error.words}") from error
            raise

    def shares_layers(self) -> bool:
        """Say whether an archive may lack the lowest layers of its image if the engine holds them under another."""
        return finds_layers(self._calls.facts())

    def export_image(self, reference: str) -> AbstractContextManager[BinaryIO]:
        """Give the engine's own archive of an image (`docker save`), as a file that can be read once.

        Raises ImageError when the engine does not have the image.
        """
        return self._exported(reference)

    @contextlib.contextmanager
    def _exported(self, reference: str) -> Iterator[BinaryIO]:
        if self.find_image(reference) is None:
            raise ImageError(f"the Docker engine has no image {reference}")
        with self._calls.asking(f"exporting {reference}"):
            chunks = self._calls.api.get_image(reference)
        reader = io.BufferedReader(_ChunkReader(self._calls, reference, chunks))
        try:
            yield cast(BinaryIO, reader)
        finally:
            reader.close()

    def run_once(
        self, image: str, command: tuple[str, ...], gpus: GpuChoice | None = None, *, folder: Path | None = None
    ) -> str:
        """Run `command` in a throw-away container (no network, no rights); return its standard output.

        Nothing is mounted but `folder`, at `/work`, where the command may write. Of very long output the end is kept.
        Raises ImageError, with what the command wrote, when it exits with anything but 0.
        """
        written: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        info = self._calls.facts()
        user = container_user(info)
        config = once_to_container(image, command, info=info, owner=this_process(), user=user, gpus=gpus, folder=folder)
        with (
            lent((folder,) if folder else (), user),
            running(self._calls, container_name("once"), config, memory=None, path=inside.DEFAULT_PATH) as execution,
        ):
            status = execution.pump(lambda stream, data: _keep(written[stream], data), lambda: None)
        if status != 0:
            text = (written["stdout"] + written["stderr"]).decode(errors="replace").splitlines()
            raise ImageError(
                f"`{' '.join(command)}` in the image {image} ended with exit status {status}",
                details=(*((execution.note,) if execution.note else ()), *text[-20:]),
            )
        return written["stdout"].decode(errors="replace")

    def tag_image(self, image_id: str, name: str, tag: str) -> None:
        """Give the image a name. Raises ImageError when the engine has no such image or the name is malformed."""
        try:
            with self._calls.asking(f"naming the image {image_id} {name}:{tag}"):
                self._calls.api.tag(image_id, name, tag, force=True)
        except DockerRefusedError as error:
            raise ImageError(error.message) from error


def _keep(written: bytearray, data: bytes) -> None:
    """Add `data`, and let go of the beginning where a program writes without end."""
    written.extend(data)
    if len(written) > 2 * _MOST_OUTPUT:
        del written[:-_MOST_OUTPUT]


class _EventError(Exception):
    """The daemon reported an error within a stream of events that began well."""


def _raise_for_event(event: Mapping[str, Any]) -> None:
    # `message` is what a refused request answers instead of events; the SDK does not look at the status of a stream.
    words = event.get("error") or event.get("message")
    # A containerd store (Docker 27 and later) tells as ordinary output that an image which it has taken is useless.
    said = str(event.get("stream") or "")
    if words or said.startswith(_NOT_UNPACKED):
        raise _EventError(str(words or said.strip()))


def _pull_error(reference: str, words: str) -> ImageError:
    if _RATE.search(words):
        what, hint = "the registry refuses more pulls for now", "Wait, or log in with `docker login`."
    elif _UNREACHABLE.search(words):
        what = "the registry cannot be reached"
        hint = "Check the network of the Docker engine, or choose a base that needs no registry (`image.base: debian`)."
    elif _UNKNOWN.search(words):
        what = "the registry has no such image, or does not show it"
        hint = "Check the reference; if the image is private, log in with `docker login`."
    else:
        what, hint = "the Docker engine refused", "Try `docker pull` with the same reference."
    return ImageError(f"cannot pull {reference}: {what}", details=(words,), hint=hint)


class _Remembering:
    """An iterable that remembers what its source raised."""

    def __init__(self, source: Iterable[bytes]) -> None:
        self._source = source
        self.failure: BaseException | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._source
        except GeneratorExit:
            raise
        except BaseException as error:
            self.failure = error
            raise


class _ChunkReader(io.RawIOBase):
    """A file over the chunks of a response."""

    def __init__(self, calls: Calls, reference: str, chunks: Iterator[bytes]) -> None:
        super().__init__()
        self._calls = calls
        self._reference = reference
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._calls.asking(f"exporting {self._reference}"):
            while not self._rest:
                try:
                    self._rest = memoryview(next(self._chunks))
                except StopIteration:
                    return 0
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def close(self) -> None:
        closing = getattr(self._chunks, "close", None)
        if closing is not None:
            closing()
        super().close()
