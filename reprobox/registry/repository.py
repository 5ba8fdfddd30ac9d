"""One repository of a registry: its manifests, blobs and referrers (OCI distribution spec 1.1).

https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md. Nothing that is fetched is believed before its
digest is right; nothing is sent that is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urljoin

from reprobox.digests import digest_of, is_digest, prefixed
from reprobox.errors import RegistryError
from reprobox.registry.media_types import INDEX_TYPE, MANIFEST_TYPE
from reprobox.registry.reference import Reference
from reprobox.registry.session import Body, BrokenError, GoneError, Session
from reprobox.validation import printable

_DOCKER_TYPES = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)

# What a registry must take at least (distribution spec, "Pushing manifests"), and far more than a hundred layers need.
MAX_MANIFEST = 4 << 20
_CHUNK = 256 << 10
_ATTEMPTS = 3
_PAUSE = 1.0
# A registry hashes a blob of gigabytes before it answers.
_HASHING_SECONDS = 600
_MAX_PAGES = 20
# Besides 404, which the specification asks for, what registries answer in practice that do not know the request.
_NO_REFERRERS = (200, 400, 404, 405, 501)


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """What points at content: media type, digest, size (OCI image spec, descriptor.md)."""

    media_type: str
    digest: str
    size: int
    artifact_type: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return it as it stands in a manifest."""
        document: dict[str, Any] = {"digest": self.digest, "mediaType": self.media_type, "size": self.size}
        if self.artifact_type is not None:
            document["artifactType"] = self.artifact_type
        return document | ({"annotations": dict(self.annotations)} if self.annotations else {})


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A manifest as the registry gave it: `content` has the digest `digest`; `document` is what it says."""

    content: bytes
    digest: str
    document: Mapping[str, Any]

    @property
    def descriptor(self) -> Descriptor:
        """What points at this manifest."""
        return Descriptor(media_type=str(self.document.get("mediaType")), digest=self.digest, size=len(self.content))


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What a registry says to a blob: `place` is where to send it, None when it has it; `mounted` when it had it in
    another repository.
    """

    place: str | None
    mounted: bool = False


class Repository:
    """Manifests, blobs and referrers of the repository that a session was opened for."""

    def __init__(self, session: Session) -> None:
        """Ask through `session`."""
        self.session = session

    @property
    def reference(self) -> Reference:
        """What the session was opened for."""
        return self.session.reference

    def manifest(self, name: str) -> Fetched:
        """Return the manifest of that tag or digest. Raises GoneError when there is none, RegistryError otherwise."""
        accept = ", ".join((MANIFEST_TYPE, INDEX_TYPE, *_DOCKER_TYPES))
        address = f"manifests/{name}"
        with self.session.request("GET", address, expect=(200,), headers={"Accept": accept}, stream=True) as response:
            content = self.session.read(response, MAX_MANIFEST)
        digest = digest_of(content)
        if name.startswith("sha256:") and name != digest:
            raise RegistryError(
                f"{self.reference.host} gave another manifest than it was asked for",
                details=(f"asked for {name}", f"got       {digest}"),
                hint="do not trust that registry, or a proxy on the way to it",
            )
        return Fetched(content=content, digest=digest, document=self._document(content))

    def put_manifest(self, content: bytes, media_type: str, name: str) -> bool:
        """Store a manifest under a tag or its digest; return whether the registry lists it among the referrers.

        Raises RegistryError when the registry refuses it or says that it became another one.
        """
        headers = {"Content-Type": media_type}
        response = self.session.request("PUT", f"manifests/{name}", expect=(201,), headers=headers, body=content)
        stored = response.headers.get("Docker-Content-Digest", digest_of(content))
        if stored != digest_of(content):
            raise RegistryError(
                f"{self.reference.host} made another manifest of what was sent",
                details=(f"sent   {digest_of(content)}", f"stored {printable(stored)}"),
                hint="use a registry that keeps OCI manifests as they are",
            )
        return "OCI-Subject" in response.headers

    def has_blob(self, digest: str) -> bool:
        """Say whether the repository holds the blob."""
        return self.session.request("HEAD", f"blobs/{digest}", expect=(200, 404)).status_code == 200

    def blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        """Yield a blob's content; what broke off is asked for from there on.

        The last chunk comes only if size and digest are right. Raises GoneError, BrokenError, RegistryError.
        """
        digest, received, held, attempts = hashlib.sha256(), 0, b"", 0
        while received < descriptor.size or attempts == 0:
            before = received
            try:
                for chunk in self._blob_from(descriptor.digest, received):
                    digest.update(chunk)
                    received += len(chunk)
                    if held:
                        yield held
                    held = chunk
                    if received > descriptor.size:
                        break
                else:
                    break
            except BrokenError:
                attempts = 1 if received > before else attempts + 1
                if attempts >= _ATTEMPTS:
                    raise
                time.sleep(_PAUSE)
                continue
            break
        if received != descriptor.size or prefixed(digest.hexdigest()) != descriptor.digest:
            raise RegistryError(
                f"{self.reference.host} gave a damaged blob",
                details=(
                    f"expected {descriptor.digest}, {descriptor.size} bytes",
                    f"got      sha256:{digest.hexdigest()}, {received} bytes",
                ),
                hint="try again; if it stays so, the registry's storage is damaged: push the run again, or use a pack",
            )
        if held:
            yield held

    def _blob_from(self, digest: str, offset: int) -> Iterator[bytes]:
        import requests

        headers = {"Range": f"bytes={offset}-"} if offset else {}
        expect = (200, 206) if offset else (200,)
        address = f"blobs/{digest}"
        with self.session.request("GET", address, expect=expect, headers=headers, stream=True) as response:
            skip = offset if response.status_code == 200 else 0
            try:
                for block in response.iter_content(_CHUNK):
                    chunk, skip = block[skip:], max(0, skip - len(block))
                    if chunk:
                        yield chunk
            except requests.exceptions.RequestException as error:
                raise self.session.unreachable(error) from error

    def offer(self, digest: str, mount_from: str | None = None) -> Offer:
        """Ask whether the registry wants a blob, and let it take it from its own repository `mount_from` if it can."""
        if self.has_blob(digest):
            return Offer(place=None)
        if mount_from is not None:
            address = f"blobs/uploads/?mount={digest}&from={quote(mount_from, safe='/')}"
            # Refused where we may not read the other repository: then the blob is sent.
            with contextlib.suppress(RegistryError):
                return self._offer(address, (f"repository:{mount_from}:pull",))
        # A registry may find the blob in another repository by itself, so it is told the digest in any case.
        return self._offer(f"blobs/uploads/?mount={digest}", ())

    def _offer(self, address: str, also: tuple[str, ...]) -> Offer:
        response = self.session.request("POST", address, expect=(201, 202), also=also, body=b"")
        if response.status_code == 201:
            return Offer(place=None, mounted=True)
        place = response.headers.get("Location")
        if not place:
            raise RegistryError(f"{self.reference.host} does not say where to send a blob")
        return Offer(place=urljoin(response.url, place))

    def upload(self, place: str, digest: str, size: int, content: Iterator[bytes]) -> None:
        """Send a blob to where an offer says. Raises BrokenError when the connection broke off, RegistryError
        when the registry refuses; what `content` raises goes through.
        """
        address = f"{place}{'&' if '?' in place else '?'}digest={quote(digest, safe='')}"
        headers = {"Content-Type": "application/octet-stream"}
        body: bytes | Body = Body(size, content) if size else b""
        self.session.request("PUT", address, expect=(201,), headers=headers, body=body, seconds=_HASHING_SECONDS)

    def send(self, digest: str, size: int, content: Callable[[], Iterator[bytes]], offer: Offer | None = None) -> None:
        """Send a blob if the registry wants it (`offer` is what it said, if it was asked).

        `content` can be read anew for another attempt. Raises as `upload`.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            offer = offer or self.offer(digest)
            if offer.place is None:
                return
            try:
                self.upload(offer.place, digest, size, content())
            except (BrokenError, GoneError):
                # Gone is an offer that was made too long ago.
                if attempt == _ATTEMPTS:
                    raise
                time.sleep(_PAUSE)
                offer = None
            else:
                return

    def attach(self, content: bytes, descriptor: Descriptor, subject: str) -> None:
        """Store the manifest of an artifact, and list it among the referrers of `subject` where the registry does not.

        The list is then an index under the tag `sha256-...` (distribution spec, "Referrers tag schema").
        """
        if self.put_manifest(content, MANIFEST_TYPE, descriptor.digest):
            return
        listed = self._listed_by_tag(subject)
        if descriptor.digest in (item.digest for item in listed):
            return
        manifests = [item.document() for item in (*listed, descriptor)]
        index = {"manifests": manifests, "mediaType": INDEX_TYPE, "schemaVersion": 2}
        self.put_manifest(json.dumps(index, sort_keys=True).encode(), INDEX_TYPE, _referrers_tag(subject))

    def referrers(self, subject: str, artifact_type: str) -> list[Descriptor]:
        """Return what of that type is attached to the manifest with the digest `subject`."""
        address: str | None = f"referrers/{subject}?artifactType={quote(artifact_type, safe='')}"
        found: list[Descriptor] = []
        for _ in range(_MAX_PAGES):
            if address is None:
                break
            headers = {"Accept": INDEX_TYPE}
            request = self.session.request("GET", address, expect=_NO_REFERRERS, headers=headers, stream=True)
            with request as response:
                kind = response.headers.get("Content-Type", "").partition(";")[0]
                if response.status_code != 200 or kind != INDEX_TYPE:
                    found = self._listed_by_tag(subject)
                    break
                found += descriptors(self._document(self.session.read(response, MAX_MANIFEST)), "manifests")
                following = response.links.get("next", {}).get("url")
                address = urljoin(response.url, following) if following else None
        return [item for item in found if item.artifact_type == artifact_type]

    def _listed_by_tag(self, subject: str) -> list[Descriptor]:
        try:
            return descriptors(self.manifest(_referrers_tag(subject)).document, "manifests")
        except GoneError:
            return []

    def _document(self, content: bytes) -> Mapping[str, Any]:
        try:
            document = json.loads(content)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise RegistryError(f"{self.reference.host} gave something that is no manifest")
        return document


def descriptors(document: Mapping[str, Any], key: str) -> list[Descriptor]:
    """Return the descriptors in a list of a manifest or index, without those that are malformed."""
    items = document.get(key)
    found = (descriptor(item) for item in (items if isinstance(items, list) else ()))
    return [item for item in found if item is not None]


def descriptor(item: Any) -> Descriptor | None:
    """Read one descriptor; None when it is malformed or its digest is not sha256."""
    match item:
        case {"mediaType": str(media_type), "digest": str(digest), "size": int(size)} if size >= 0:
            if not is_digest(digest):
                return None
            kind, notes = item.get("artifactType"), item.get("annotations")
            return Descriptor(
                media_type=media_type,
                digest=digest,
                size=size,
                artifact_type=kind if isinstance(kind, str) else None,
                annotations={str(name): str(text) for name, text in notes.items()} if isinstance(notes, dict) else {},
            )
    return None


def _referrers_tag(digest: str) -> str:
    return digest.replace(":", "-")
