from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox.errors import RegistryError
from reprobox.registry import repository as repository_module
from reprobox.registry import session as session_module
from reprobox.registry.authorisation import Login
from reprobox.registry.media_types import INDEX_TYPE, MANIFEST_TYPE
from reprobox.registry.reference import parse_reference
from reprobox.registry.repository import Descriptor, Repository, descriptors
from reprobox.registry.session import BrokenError, GoneError, Session
from tests.unit.registry_support import LOGIN, REFRESH, USER, Registry, opened, serving, sha256

CONTENT = bytes(range(256)) * 4000
DIGEST = sha256(CONTENT)
BLOB = Descriptor(media_type="application/octet-stream", digest=DIGEST, size=len(CONTENT))
TYPE = "application/vnd.example.run"


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving(Registry()) as serving_registry:
        yield serving_registry


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository_module, "_PAUSE", 0.0)


def pieces() -> Iterator[bytes]:
    for start in range(0, len(CONTENT), 100_000):
        yield CONTENT[start : start + 100_000]


def send(repository: Repository) -> None:
    repository.send(DIGEST, len(CONTENT), pieces)


def test_a_blob_is_streamed_once_and_comes_back(registry: Registry) -> None:
    with opened(registry) as repository:
        send(repository)
        send(repository)
        assert b"".join(repository.blob(BLOB)) == CONTENT
    assert registry.count("^PUT") == 1


def test_an_empty_blob_is_sent_too(registry: Registry) -> None:
    with opened(registry) as repository:
        repository.send(sha256(b""), 0, lambda: iter(()))
        assert b"".join(repository.blob(Descriptor(media_type="", digest=sha256(b""), size=0))) == b""


def test_a_blob_of_another_repository_is_mounted_and_not_sent(registry: Registry) -> None:
    registry.blobs["other/place", DIGEST] = CONTENT
    with opened(registry) as repository:
        offer = repository.offer(DIGEST, mount_from="other/place")
        assert offer.mounted
        assert offer.place is None
        assert repository.has_blob(DIGEST)
    assert registry.count("^PUT") == 0


@pytest.mark.parametrize("where", ["gone/place", "secret/place"])
def test_what_cannot_be_mounted_is_sent(registry: Registry, where: str) -> None:
    registry.auth = "token"
    registry.blobs["secret/place", DIGEST] = CONTENT
    with opened(registry, login=LOGIN) as repository:
        offer = repository.offer(DIGEST, mount_from=where)
        assert not offer.mounted
        repository.send(DIGEST, len(CONTENT), pieces, offer)
    assert registry.blobs["me/paper", DIGEST] == CONTENT


@pytest.mark.parametrize("auth", ["basic", "token"])
def test_the_registry_gets_the_credentials_it_asks_for(registry: Registry, auth: str) -> None:
    registry.auth = auth
    with opened(registry, login=LOGIN) as repository:
        send(repository)
        assert b"".join(repository.blob(BLOB)) == CONTENT
    # One token serves them all.
    assert registry.count("/token") == (1 if auth == "token" else 0)


def test_an_identity_token_is_exchanged(registry: Registry) -> None:
    registry.auth = "token"
    with opened(registry, login=Login(user="", secret=REFRESH, identity_token=True)) as repository:
        send(repository)
    assert registry.count("^POST /token") == 1
    assert (("me/paper", DIGEST)) in registry.blobs


def test_a_token_that_runs_out_is_replaced(registry: Registry) -> None:
    registry.auth, registry.token_seconds = "token", None
    with opened(registry, login=LOGIN) as repository:
        send(repository)
        registry.tokens.clear()
        assert repository.has_blob(DIGEST)
    assert registry.count("/token") == 2


def test_a_token_that_ran_out_between_offer_and_upload_is_renewed_before_anything_is_sent(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.auth = "token"
    with opened(registry, login=LOGIN) as repository:
        offer = repository.offer(DIGEST)
        registry.tokens.clear()
        much_later = time.monotonic() + 2 * (registry.token_seconds or 0)
        monkeypatch.setattr(session_module, "time", SimpleNamespace(monotonic=lambda: much_later))
        repository.send(DIGEST, len(CONTENT), pieces, offer)
    assert registry.count("^PUT") == 1


def test_an_offer_that_was_withdrawn_is_made_again(registry: Registry) -> None:
    with opened(registry) as repository:
        offer = repository.offer(DIGEST)
        registry.uploads.clear()
        repository.send(DIGEST, len(CONTENT), pieces, offer)
    assert ("me/paper", DIGEST) in registry.blobs


def test_public_content_needs_no_login_but_a_token(registry: Registry) -> None:
    registry.auth = "token"
    registry.blobs["me/paper", DIGEST] = CONTENT
    with opened(registry, push=False) as repository:
        assert b"".join(repository.blob(BLOB)) == CONTENT


@pytest.mark.parametrize("auth", ["basic", "token"])
@pytest.mark.parametrize("login", [None, Login(user=USER, secret="wrong")])
def test_who_may_not_is_told_what_to_do(registry: Registry, auth: str, login: Login | None) -> None:
    registry.auth = auth
    with opened(registry, login=login) as repository, pytest.raises(RegistryError) as caught:
        send(repository)
    assert f"{registry.host} does not let you push to {registry.host}/me/paper" in caught.value.message
    assert caught.value.hint is not None
    assert f"docker login {registry.host}" in caught.value.hint
    assert ("not logged in" in caught.value.details) == (login is None)
    text = " ".join(caught.value.details)
    assert "wrong" not in text.replace("wrong password", "")
    assert "\x1b" not in text


@pytest.mark.parametrize("theirs", ["basic", "token"])
def test_credentials_do_not_follow_to_another_host(registry: Registry, theirs: str) -> None:
    registry.auth = "basic"
    registry.blobs["me/paper", DIGEST] = CONTENT
    with serving(Registry(auth=theirs)) as elsewhere:
        elsewhere.blobs["cdn", DIGEST] = CONTENT
        registry.redirected[DIGEST] = f"http://{elsewhere.host}/v2/cdn/blobs/{DIGEST}"
        with opened(registry, login=LOGIN) as repository:
            with pytest.raises(RegistryError, match="does not let you"):
                b"".join(repository.blob(BLOB))
            assert elsewhere.count("/token") == 0
            elsewhere.auth = "none"
            assert b"".join(repository.blob(BLOB)) == CONTENT


@pytest.mark.parametrize("target", ["http://example.org/blob", "ftp://example.org/blob", "file:///etc/passwd"])
def test_no_redirection_leaves_encryption(registry: Registry, target: str) -> None:
    registry.blobs["me/paper", DIGEST] = CONTENT
    registry.redirected[DIGEST] = target
    with opened(registry) as repository, pytest.raises(RegistryError, match="without encryption"):
        b"".join(repository.blob(BLOB))


def test_redirections_in_a_circle_end(registry: Registry) -> None:
    registry.blobs["me/paper", DIGEST] = CONTENT
    registry.redirected[DIGEST] = f"/v2/me/paper/blobs/{DIGEST}"
    with opened(registry) as repository, pytest.raises(RegistryError, match="circle"):
        b"".join(repository.blob(BLOB))


@pytest.mark.parametrize(
    ("text", "insecure", "base"),
    [
        ("ghcr.io/me/a", False, "https://ghcr.io/v2/me/a/"),
        ("me/a", False, "https://registry-1.docker.io/v2/me/a/"),
        ("localhost:5000/a", False, "http://localhost:5000/v2/a/"),
        ("10.0.0.1:5000/a", False, "https://10.0.0.1:5000/v2/a/"),
        ("10.0.0.1:5000/a", True, "http://10.0.0.1:5000/v2/a/"),
    ],
)
def test_only_this_machine_is_spoken_to_in_the_open_unless_asked(text: str, insecure: bool, base: str) -> None:
    with Session(parse_reference(text), push=False, logins=lambda host: None, insecure=insecure) as session:
        assert session.base == base


def test_a_proxy_is_not_asked_for_this_machine(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with opened(registry) as repository:
        assert not repository.has_blob(DIGEST)


def test_a_damaged_blob_is_never_whole(registry: Registry) -> None:
    registry.blobs["me/paper", DIGEST] = CONTENT
    for damaged in (CONTENT[:-1] + b"?", CONTENT[:-1], CONTENT + b"?", b""):
        registry.corrupted[DIGEST] = damaged
        received = bytearray()
        with opened(registry) as repository, pytest.raises(RegistryError, match="damaged blob"):
            for chunk in repository.blob(BLOB):
                received += chunk
        assert len(received) < len(CONTENT)


@pytest.mark.parametrize("ranges", [True, False])
def test_what_broke_off_goes_on_from_there(registry: Registry, ranges: bool) -> None:
    registry.ranges = ranges
    registry.blobs["me/paper", DIGEST] = CONTENT
    registry.broken_after[DIGEST] = [600_000, 300_000 if ranges else 900_000]
    with opened(registry) as repository:
        assert b"".join(repository.blob(BLOB)) == CONTENT
    assert registry.count("^GET") == 3


def test_what_breaks_off_always_is_given_up(registry: Registry) -> None:
    registry.blobs["me/paper", DIGEST] = CONTENT
    registry.broken_after[DIGEST] = [0] * 50
    with opened(registry) as repository, pytest.raises(BrokenError, match="broke off"):
        b"".join(repository.blob(BLOB))


def test_a_registry_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            Session(parse_reference(f"{host}/a"), push=False, logins=lambda host: None) as session,
            pytest.raises(BrokenError, match=f"the registry {host} cannot be reached") as caught,
        ):
            Repository(session).has_blob(DIGEST)
    assert caught.value.details == ("connection refused",)


@pytest.mark.parametrize(
    ("status", "words"),
    [(403, "does not let you"), (404, "does not have it"), (429, "refuses more requests"), (500, "refuses to push")],
)
def test_every_refusal_has_the_registrys_words(registry: Registry, status: int, words: str) -> None:
    content = json.dumps({"errors": [{"code": "DENIED", "message": "quota\x07 exceeded"}]}).encode()
    registry.answers["^POST"] = (status, content)
    with opened(registry) as repository, pytest.raises(RegistryError, match=words) as caught:
        send(repository)
    assert "DENIED: quota\\x07 exceeded" in caught.value.details


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b'{"errors": 3}', b"[" * 100_000, b"x" * 100_000])
def test_words_that_are_none_do_no_harm(registry: Registry, content: bytes) -> None:
    registry.answers["^POST"] = (418, content)
    with opened(registry) as repository, pytest.raises(RegistryError, match="refuses to push"):
        send(repository)


def test_a_manifest_is_believed_by_its_digest_alone(registry: Registry) -> None:
    content = b'{"mediaType": "%s"}' % MANIFEST_TYPE.encode()
    registry.manifests["me/paper", DIGEST] = registry.manifests["me/paper", "v1"] = (MANIFEST_TYPE, content)
    with opened(registry) as repository:
        assert repository.manifest("v1").digest == sha256(content)
        with pytest.raises(RegistryError, match="another manifest than it was asked for"):
            repository.manifest(DIGEST)
        with pytest.raises(GoneError):
            repository.manifest("v2")


@pytest.mark.parametrize("content", [b"", b"[]", b"{" * 50_000, b'"' + b"x" * (5 << 20) + b'"'])
def test_what_is_no_manifest_is_refused(registry: Registry, content: bytes) -> None:
    registry.manifests["me/paper", "v1"] = (MANIFEST_TYPE, content)
    with opened(registry) as repository, pytest.raises(RegistryError):
        repository.manifest("v1")


def artifact(note: str, kind: str = TYPE) -> tuple[bytes, Descriptor]:
    document: dict[str, Any] = {
        "annotations": {"note": note},
        "artifactType": kind,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": sha256(b"{}"), "size": 2},
        "layers": [],
        "mediaType": MANIFEST_TYPE,
        "schemaVersion": 2,
        "subject": {"mediaType": MANIFEST_TYPE, "digest": DIGEST, "size": 7},
    }
    content = json.dumps(document).encode()
    return content, Descriptor(
        media_type=MANIFEST_TYPE,
        digest=sha256(content),
        size=len(content),
        artifact_type=kind,
        annotations={"note": note},
    )


@pytest.mark.parametrize("api", [True, False])
def test_what_is_attached_is_found_with_and_without_the_referrers_api(registry: Registry, api: bool) -> None:
    registry.referrers_api, registry.page = api, 2
    with opened(registry) as repository:
        assert repository.referrers(DIGEST, TYPE) == []
        repository.send(sha256(b"{}"), 2, lambda: iter((b"{}",)))
        ours = [artifact(note) for note in ("one", "two", "three")]
        for content, points in (*ours, ours[0], artifact("signature", "application/vnd.other")):
            repository.attach(content, points, DIGEST)
        found = repository.referrers(DIGEST, TYPE)
    assert sorted(item.digest for item in found) == sorted(points.digest for _, points in ours)
    assert {item.annotations["note"] for item in found} == {"one", "two", "three"}
    tag = ("me/paper", DIGEST.replace(":", "-"))
    assert (tag in registry.manifests) is not api
    if not api:
        kind, content = registry.manifests[tag]
        assert kind == INDEX_TYPE
        assert len(json.loads(content)["manifests"]) == 4


@pytest.mark.parametrize("answer", [(405, b""), (400, b"{}"), (200, b"<html>a registry's front page</html>")])
def test_a_registry_that_answers_anything_to_the_referrers_api_is_asked_by_tag(
    registry: Registry, answer: tuple[int, bytes]
) -> None:
    registry.referrers_api = False
    registry.answers["^GET .*/referrers/"] = answer
    with opened(registry) as repository:
        repository.send(sha256(b"{}"), 2, lambda: iter((b"{}",)))
        content, points = artifact("one")
        repository.attach(content, points, DIGEST)
        assert [item.digest for item in repository.referrers(DIGEST, TYPE)] == [points.digest]


def test_malformed_referrers_are_left_out(registry: Registry) -> None:
    registry.referrers_api = False
    good = {"mediaType": MANIFEST_TYPE, "digest": DIGEST, "size": 1, "artifactType": TYPE}
    bad = [None, 3, {}, {**good, "size": -1}, {**good, "digest": "sha256:../../x"}, {**good, "digest": "md5:1"}]
    index = json.dumps({"mediaType": INDEX_TYPE, "manifests": [*bad, good]}).encode()
    registry.manifests["me/paper", DIGEST.replace(":", "-")] = (INDEX_TYPE, index)
    with opened(registry) as repository:
        assert [item.digest for item in repository.referrers(DIGEST, TYPE)] == [DIGEST]


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificate")
def test_a_certificate_must_be_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=test"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", "req", "-x509", *kind, *names], check=True, capture_output=True)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    with serving(Registry(), certificate, key) as registry, opened(registry) as repository:
        repository.session.base = repository.session.base.replace("http://", "https://")
        with pytest.raises(RegistryError, match="certificate that is not trusted") as caught:
            repository.has_blob(DIGEST)
        assert "REQUESTS_CA_BUNDLE" in (caught.value.hint or "")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        assert not repository.has_blob(DIGEST)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just(DIGEST),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["mediaType", "digest", "size", "annotations", "manifests"]), inner, max_size=5
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.just("manifests"), _JSON))
def test_no_document_breaks_the_reader_of_descriptors(document: dict[str, Any]) -> None:
    for item in descriptors(document, "manifests"):
        assert re.fullmatch("sha256:[0-9a-f]{64}", item.digest)
        assert item.size >= 0
