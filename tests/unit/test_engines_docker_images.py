"""What the image side makes of the daemon's answers, with a daemon that is made up."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from reprobox.engines.docker_calls import DockerLostError, DockerRefusedError
from reprobox.engines.docker_images import DockerImages, _keep
from reprobox.errors import EngineError, ImageError


class MadeUpApi:
    """Answers every load and pull with the same events, and every look at an image with the same image."""

    def __init__(self, events: list[dict[str, str]], image: dict[str, Any] | None = None) -> None:
        self.events = events
        self.image = image
        self.received = b""

    def load_image(self, data: Iterator[bytes]) -> Iterator[dict[str, str]]:
        self.received = b"".join(data)
        return iter(self.events)

    def pull(self, _reference: str, *, stream: bool, decode: bool) -> Iterator[dict[str, str]]:
        assert stream and decode
        return iter(self.events)

    def inspect_image(self, _reference: str) -> dict[str, Any]:
        if self.image is None:
            raise DockerRefusedError("looking", status=404, words="No such image")
        return self.image


class MadeUpCalls:
    def __init__(self, api: Any) -> None:
        self.api = api

    @contextlib.contextmanager
    def asking(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DockerLostError(f"lost while {doing}") from error

    def facts(self) -> Mapping[str, Any]:
        return {}

    def answers(self) -> bool:
        return True


def images(*events: dict[str, str], image: dict[str, Any] | None = None) -> DockerImages:
    return DockerImages(MadeUpCalls(MadeUpApi(list(events), image)))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("Get https://r.example/v2/: dial tcp: lookup r.example: no such host", "cannot be reached"),
        ("Get https://r.example/v2/: net/http: request canceled (Client.Timeout exceeded)", "cannot be reached"),
        ("x509: certificate signed by unknown authority", "cannot be reached"),
        ("manifest for python:9-slim not found: manifest unknown: manifest unknown", "has no such image"),
        ("pull access denied for nope, repository does not exist or may require 'docker login'", "has no such image"),
        ("toomanyrequests: You have reached your pull rate limit", "refuses more pulls"),
        ("something new", "the Docker engine refused"),
    ],
)
def test_a_failed_pull_says_whether_the_registry_or_the_reference_was_the_trouble(words: str, said: str) -> None:
    with pytest.raises(ImageError, match=said) as caught:
        images({"status": "Pulling"}, {"error": words}).pull_image("python:9-slim")
    assert caught.value.details == (words,)
    assert "python:9-slim" in caught.value.message


def test_an_error_among_the_events_of_a_load_is_an_error() -> None:
    with pytest.raises(ImageError, match="unexpected EOF"):
        images({"stream": "Loading"}, {"error": "unexpected EOF"}).load_image([b"x"])


def test_a_refusal_instead_of_events_is_an_error() -> None:
    with pytest.raises(ImageError, match="no space left on device"):
        images({"message": "write /layer.tar: no space left on device"}).load_image([b"x"])


def test_an_image_that_could_not_be_unpacked_is_not_loaded() -> None:
    said = 'Error unpacking image sha256:1: apply layer error for "x": failed to extract layer sha256:2: no space left'
    with pytest.raises(ImageError, match="no space left"):
        images({"stream": "Loaded image ID: sha256:1\n"}, {"stream": said + "\n"}).load_image([b"x"])


@pytest.mark.parametrize(
    ("words", "known"),
    [
        (None, True),
        ("manifest unknown: manifest unknown", False),
        ("errors:\ndenied: requested access to the resource is denied\nunauthorized: authentication required", False),
        ('Get "https://registry-1.docker.io/v2/": dial tcp: lookup registry-1.docker.io: no such host', None),
        ("something new", None),
    ],
)
def test_the_containerd_stores_names_are_a_registrys_only_if_one_knows_them(
    words: str | None, known: bool | None
) -> None:
    class Asked(MadeUpApi):
        def inspect_distribution(self, reference: str) -> dict[str, Any]:
            assert reference == "mine@sha256:1"
            if words is not None:
                raise DockerRefusedError("asking", status=404, words=words)
            return {}

    class Containerd(MadeUpCalls):
        def facts(self) -> Mapping[str, Any]:
            return {"DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]}

    assert DockerImages(Containerd(Asked([]))).registry_knows("mine@sha256:1") is known
    assert images().registry_knows("mine@sha256:1") is True, "the classic store gives such names to nothing else"


def test_an_error_of_the_archive_is_not_taken_for_one_of_the_connection() -> None:
    def archive() -> Iterator[bytes]:
        yield b"x"
        raise ConnectionResetError("of the archive's own")

    with pytest.raises(ConnectionResetError, match="of the archive's own"):
        images().load_image(archive())


def test_a_lost_engine_stays_an_engine_error() -> None:
    class Dead(MadeUpApi):
        def load_image(self, data: Iterator[bytes]) -> Iterator[dict[str, str]]:
            raise BrokenPipeError

    with pytest.raises(EngineError, match="lost while loading the image"):
        DockerImages(MadeUpCalls(Dead([]))).load_image([b"x"])


def test_a_found_image_has_the_config_in_oci_words_without_the_engines_own() -> None:
    found = images(
        image={
            "Id": "sha256:1",
            "RootFS": {"Type": "layers", "Layers": ["sha256:a", "sha256:b"]},
            "Config": {"Env": ["A=1"], "Cmd": ["sh"], "Hostname": "x", "Tty": False, "Labels": None, "Domainname": ""},
            "Architecture": "amd64",
            "Os": "linux",
            "RepoDigests": None,
        }
    ).find_image("x")
    assert found is not None
    assert found.config == {"Env": ["A=1"], "Cmd": ["sh"]}
    assert (found.diff_ids, found.repo_digests) == (("sha256:a", "sha256:b"), ())


def test_an_image_that_is_not_there_is_none() -> None:
    assert images().find_image("x") is None


def test_of_output_without_end_only_the_end_is_kept() -> None:
    written = bytearray()
    for number in range(40):
        _keep(written, bytes((number,)) * (1 << 20))
    assert len(written) <= 17 << 20
    assert written.endswith(b"\x26" * (1 << 20) + b"\x27" * (1 << 20))
