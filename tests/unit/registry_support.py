"""A registry in this process that keeps strictly to the part of the OCI distribution spec 1.1 that reprobox uses."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import ssl
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from reprobox.registry.authorisation import Login
from reprobox.registry.reference import parse_reference
from reprobox.registry.repository import Repository
from reprobox.registry.session import Session

USER, PASSWORD, REFRESH = "ada", "love:lace", "a-refresh-token"
_ROUTE = re.compile(r"/v2/(?P<name>[a-z0-9/._-]+?)/(?P<kind>blobs/uploads|blobs|manifests|referrers)/(?P<rest>[^/]*)")


def sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


@dataclass
class Registry:
    """Its state and its moods. `auth` is none, basic or token; `log` lists `METHOD path` of every request."""

    auth: str = "none"
    referrers_api: bool = True
    ranges: bool = True
    token_seconds: int | None = 300
    page: int = 100
    blobs: dict[tuple[str, str], bytes] = field(default_factory=dict)
    manifests: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    uploads: dict[str, str] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    tokens: dict[str, set[str]] = field(default_factory=dict)
    # Digest of a blob: what is done to it on the way out.
    corrupted: dict[str, bytes] = field(default_factory=dict)
    broken_after: dict[str, list[int]] = field(default_factory=dict)
    redirected: dict[str, str] = field(default_factory=dict)
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    host: str = ""

    def reference(self, rest: str = "me/paper:v1") -> str:
        return f"{self.host}/{rest}"

    def count(self, pattern: str) -> int:
        return sum(re.search(pattern, line) is not None for line in self.log)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    registry: Registry

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _error(self, status: int, code: str, message: str = "") -> None:
        self._answer(status, json.dumps({"errors": [{"code": code, "message": message or code.lower()}]}).encode())

    def _body(self) -> bytes:
        assert "Transfer-Encoding" not in self.headers, "a body of unknown length"
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _any(self) -> None:
        registry = self.registry
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        registry.log.append(f"{self.command} {self.path}")
        body = self._body()
        if url.path == "/token":
            self._token(url.query, body)
            return
        for pattern, (status, content) in registry.answers.items():
            if re.search(pattern, f"{self.command} {self.path}"):
                self._answer(status, content)
                return
        route = _ROUTE.fullmatch(url.path)
        if route is None:
            self._error(404, "NAME_UNKNOWN")
        elif self._allowed(route["name"], query):
            kind = route["kind"].replace("/", "_")
            getattr(self, f"_{kind}")(route["name"], route["rest"], query, body)

    do_GET = do_HEAD = do_POST = do_PUT = _any

    def _allowed(self, name: str, query: Mapping[str, str]) -> bool:
        registry = self.registry
        if registry.auth == "none":
            return True
        header = self.headers.get("Authorization", "")
        if registry.auth == "basic":
            wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            challenge = 'Basic realm="a, b"'
            if header == wanted:
                return True
        else:
            needed = {f"{name}:pull"} if self.command in ("GET", "HEAD") else {f"{name}:pull", f"{name}:push"}
            if "from" in query:
                needed.add(f"{query['from']}:pull")
            if needed <= registry.tokens.get(header.removeprefix("Bearer "), set()):
                return True
            challenge = (
                f'Bearer realm="http://{registry.host}/token",service="fake, registry",scope="repository:{name}:pull"'
            )
        content = json.dumps({"errors": [{"code": "UNAUTHORIZED", "message": "authentication\x1b[2J required"}]})
        self._answer(401, content.encode(), WWW_Authenticate=challenge)
        return False

    def _token(self, query: str, body: bytes) -> None:
        if self.command == "POST":
            fields = parse_qs(body.decode())
            known = fields["refresh_token"] == [REFRESH] and fields["grant_type"] == ["refresh_token"]
            scopes = fields["scope"][0].split(" ")
        else:
            fields = parse_qs(query)
            scopes = fields["scope"]
            header = self.headers.get("Authorization")
            known = header == "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            if header is not None and not known:
                self._error(401, "UNAUTHORIZED", "wrong password")
                return
        assert fields["service"] == ["fake, registry"]
        granted = set()
        for scope in scopes:
            kind, name, actions = scope.split(":")
            assert kind == "repository"
            # Strangers may read what is public, and nobody may read what is secret.
            granted |= {f"{name}:{action}" for action in actions.split(",") if known or action == "pull"}
        granted = {item for item in granted if not item.startswith("secret/")}
        token = uuid.uuid4().hex
        self.registry.tokens[token] = granted
        answer: dict[str, Any] = {"token" if self.command == "GET" else "access_token": token}
        if self.registry.token_seconds is not None:
            answer["expires_in"] = self.registry.token_seconds
        self._answer(200, json.dumps(answer).encode())

    def _blobs(self, name: str, digest: str, query: Mapping[str, str], body: bytes) -> None:
        registry = self.registry
        content = registry.blobs.get((name, digest))
        if content is None or self.command not in ("GET", "HEAD"):
            self._error(404, "BLOB_UNKNOWN")
            return
        if digest in registry.redirected and self.command == "GET":
            self._answer(307, Location=registry.redirected[digest])
            return
        content = registry.corrupted.get(digest, content)
        start, status = 0, 200
        if registry.ranges and (asked := self.headers.get("Range")):
            start, status = int(asked.removeprefix("bytes=").rstrip("-")), 206
        limits = registry.broken_after.get(digest)
        if limits and self.command == "GET":
            self.send_response(status)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:][: limits.pop(0)])
            self.close_connection = True
            return
        self._answer(status, content[start:], Docker_Content_Digest=digest)

    def _blobs_uploads(self, name: str, session: str, query: Mapping[str, str], body: bytes) -> None:
        registry = self.registry
        if self.command == "POST":
            assert not session and body == b""
            digest = query.get("mount", "")
            if "from" in query and (query["from"], digest) in registry.blobs:
                registry.blobs[name, digest] = registry.blobs[query["from"], digest]
                self._answer(201, Location=f"/v2/{name}/blobs/{digest}")
                return
            session = uuid.uuid4().hex
            registry.uploads[session] = name
            self._answer(202, Location=f"/v2/{name}/blobs/uploads/{session}?state=opaque%2Bstate")
            return
        if self.command != "PUT" or registry.uploads.pop(session, None) != name or query["state"] != "opaque+state":
            self._error(404, "BLOB_UPLOAD_UNKNOWN")
        elif self.headers["Content-Type"] != "application/octet-stream" or sha256(body) != query["digest"]:
            self._error(400, "DIGEST_INVALID")
        else:
            registry.blobs[name, sha256(body)] = body
            self._answer(201, Location=f"/v2/{name}/blobs/{query['digest']}")

    def _manifests(self, name: str, what: str, query: Mapping[str, str], body: bytes) -> None:
        registry = self.registry
        if self.command == "PUT":
            self._put_manifest(name, what, body)
        elif (name, what) not in registry.manifests:
            self._error(404, "MANIFEST_UNKNOWN")
        else:
            kind, content = registry.manifests[name, what]
            assert kind in self.headers["Accept"].split(", ")
            self._answer(200, content, Content_Type=kind, Docker_Content_Digest=sha256(content))

    def _put_manifest(self, name: str, what: str, body: bytes) -> None:
        registry = self.registry
        document = json.loads(body)
        kind = self.headers["Content-Type"]
        parts = [document["config"], *document["layers"]] if "config" in document else []
        lacking = [part for part in parts if (name, part["digest"]) not in registry.blobs]
        if kind != document["mediaType"] or (what.startswith("sha256:") and what != sha256(body)):
            self._error(400, "MANIFEST_INVALID")
        elif lacking or any((name, item["digest"]) not in registry.manifests for item in document.get("manifests", ())):
            self._error(400, "MANIFEST_BLOB_UNKNOWN")
        else:
            registry.manifests[name, what] = registry.manifests[name, sha256(body)] = (kind, body)
            headers = {"Docker_Content_Digest": sha256(body)}
            if registry.referrers_api and "subject" in document:
                headers["OCI_Subject"] = document["subject"]["digest"]
            self._answer(201, Location=f"/v2/{name}/manifests/{what}", **headers)

    def _referrers(self, name: str, subject: str, query: Mapping[str, str], body: bytes) -> None:
        registry = self.registry
        if not registry.referrers_api:
            self._answer(404, b"404 page not found\n")
            return
        found = []
        for (repository, digest), (kind, content) in sorted(registry.manifests.items()):
            document = json.loads(content)
            if (
                repository == name
                and digest.startswith("sha256:")
                and document.get("subject", {}).get("digest") == subject
            ):
                keys = ("artifactType", "annotations")
                found.append(
                    {"mediaType": kind, "digest": digest, "size": len(content)}
                    | {key: document[key] for key in keys if key in document}
                )
        start = int(query.get("start", 0))
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json"}
        content = json.dumps({**index, "manifests": found[start : start + registry.page]}).encode()
        more = start + registry.page < len(found)
        link = {"Link": f'</v2/{name}/referrers/{subject}?start={start + registry.page}>; rel="next"'} if more else {}
        self._answer(200, content, Content_Type=index["mediaType"], **link)


class _Server(ThreadingHTTPServer):
    # Waited for at the end, so that no test leaves a thread with an open connection to the next one.
    daemon_threads = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serving(registry: Registry, certificate: Path | None = None, key: Path | None = None) -> Iterator[Registry]:
    """Serve `registry` on a free port of this machine, encrypted if there is a certificate."""
    handler = type("Handler", (_Handler,), {"registry": registry})
    server = _Server(("127.0.0.1", 0), handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    registry.host = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def opened(
    registry: Registry, name: str = "me/paper", *, push: bool = True, login: Login | None = None
) -> Iterator[Repository]:
    """Open one repository of `registry`."""
    with Session(parse_reference(registry.reference(name)), push=push, logins=lambda host: login) as session:
        yield Repository(session)


LOGIN = Login(user=USER, secret=PASSWORD)
