"""What names an image in a registry: `HOST/NAME[:TAG][@sha256:...]`, read as Docker reads it.

Grammar: OCI distribution spec 1.1 ("Pulling manifests") for names and tags; which part is the host, and that an image
without one is Docker Hub's, is Docker's custom.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from reprobox.digests import is_digest
from reprobox.errors import UsageError
from reprobox.validation import printable

SCHEME = "oci://"
DOCKER_HUB = "docker.io"

_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_PART}(?:/{_PART})*")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_MAX_NAME = 255


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A repository on `host` and, where they were named, a `tag` and a `digest` in it."""

    host: str
    name: str
    tag: str | None = None
    digest: str | None = None

    @property
    def repository(self) -> str:
        """Host and name, as `docker pull` takes them."""
        return f"{self.host}/{self.name}"

    @property
    def wanted(self) -> str:
        """What to ask the repository for: the digest, else the tag, else `latest`."""
        return self.digest or self.tag or "latest"

    @property
    def loopback(self) -> bool:
        """Whether the host is this machine, so that nobody listens on the way."""
        return is_loopback(self.host)

    def __str__(self) -> str:
        """Write the reference as it is read."""
        tag = f":{self.tag}" if self.tag else ""
        return self.repository + tag + (f"@{self.digest}" if self.digest else "")


def parse_reference(text: str) -> Reference:
    """Read a reference, with or without `oci://` before it. Raises UsageError when it is none."""
    rest, at, digest = text.removeprefix(SCHEME).partition("@")
    head, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:
        # A colon before the last slash belongs to the host's port.
        head, tag = rest, ""
    first, slash, name = head.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        first, name = DOCKER_HUB, head if slash else f"library/{head}"
    problem = None
    if not _HOST.fullmatch(first):
        problem = f"{printable(first)!r} is no host"
    elif not _NAME.fullmatch(name) or len(name) > _MAX_NAME:
        problem = f"{printable(name)!r} is no name of a repository (lower case letters, digits, . _ - between them)"
    elif (colon and not head) or (tag and not _TAG.fullmatch(tag)) or rest.endswith(":"):
        problem = f"{printable(tag)!r} is no tag"
    elif at and not is_digest(digest):
        problem = f"{printable(digest)!r} is no digest (sha256: and 64 hex digits)"
    if problem:
        raise UsageError(
            f"not a registry reference: {printable(text)}",
            details=(problem,),
            hint="write HOST/NAME:TAG or HOST/NAME@sha256:..., for instance ghcr.io/me/paper:v1",
        )
    return Reference(host=first, name=name, tag=tag or None, digest=digest or None)


def is_loopback(host: str) -> bool:
    """Say whether `HOST[:PORT]` is this machine: `localhost` or a loopback address."""
    name = re.sub(r":[0-9]+$", "", host).strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
