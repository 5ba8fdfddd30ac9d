"""HTTP to one registry: authorised as it asks, encrypted unless it is this machine, its refusals put into words.

Written upon `requests`, which the docker SDK brings along. The `oras` package (0.2.43) speaks the same protocol, but it
reads each blob into memory before it sends it, keeps what it fetched without a look at its digest, and knows neither
referrers nor mounts; nothing would be left of it here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self
from urllib.parse import urljoin, urlsplit

from reprobox.errors import RegistryError, system_cause
from reprobox.registry.authorisation import DEFAULT_LIFETIME, MARGIN, Login, Token, challenges
from reprobox.registry.reference import DOCKER_HUB, Reference, is_loopback
from reprobox.validation import printable

if TYPE_CHECKING:
    import requests

Logins = Callable[[str], Login | None]

_HUB_API = "registry-1.docker.io"
_CONNECT_SECONDS = 30
_READ_SECONDS = 60
_REDIRECTS = 5
_BUSY = (429, 502, 503, 504)
_MAX_ERROR = 64 << 10
_MAX_TOKEN = 256 << 10
_CLIENT = "reprobox"


class GoneError(RegistryError):
    """The registry has no such repository, manifest or blob."""


class BrokenError(RegistryError):
    """The connection broke off or was never made; another attempt may succeed."""


class Body:
    """A request's body of known length that is made while it is sent."""

    def __init__(self, size: int, chunks: Any) -> None:
        """Send `chunks`, which must come to `size` bytes."""
        self._size = size
        self._chunks = chunks

    def __len__(self) -> int:
        """Return the bytes, by which requests sends a Content-Length instead of chunks."""
        return self._size

    def __iter__(self) -> Any:
        """Return the content."""
        return iter(self._chunks)


class Session:
    """A connection to the registry of one reference; a context manager that closes it.

    `push` says whether to ask for the right to write. `logins` returns the credentials for a host, asked only when the
    registry wants some. Plain HTTP is spoken to this machine alone, unless `insecure`.
    """

    def __init__(self, reference: Reference, *, push: bool, logins: Logins, insecure: bool = False) -> None:
        """Make ready; nothing is sent yet."""
        # Takes about 0.1 s to import, and only a registry needs it.
        import requests
        from requests.adapters import HTTPAdapter
        from urllib3.util import Retry

        self.reference = reference
        self.insecure = insecure
        scheme = "http" if insecure or reference.loopback else "https"
        host = _HUB_API if reference.host == DOCKER_HUB else reference.host
        self.base = f"{scheme}://{host}/v2/{reference.name}/"
        self._logins = logins
        self._scope = f"repository:{reference.name}:pull" + (",push" if push else "")
        self._doing = f"{'push to' if push else 'read from'} {reference.repository}"
        self._tokens: dict[tuple[str, ...], Token] = {}
        self._asked: Mapping[str, str] = {}
        self._basic: Login | None = None
        self._http = requests.Session()
        retry = Retry(
            total=2,
            backoff_factor=0.5,
            status_forcelist=_BUSY,
            allowed_methods=("GET", "HEAD"),
            raise_on_status=False,
            respect_retry_after_header=False,
        )
        self._adapter = HTTPAdapter(max_retries=retry)
        self._http.mount("http://", self._adapter)
        self._http.mount("https://", self._adapter)
        # Blobs are what their bytes are: nothing may be packed for transport.
        self._http.headers.update({"Accept-Encoding": "identity", "User-Agent": _CLIENT})

    def __enter__(self) -> Self:
        """Nothing is opened before the first request."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections now: urllib3 leaves them to the garbage collector, and an error may hold them."""
        pools = self._adapter.poolmanager.pools
        for key in list(pools.keys()):
            pool = pools.get(key)
            if pool is not None:
                pool.close()
        self._http.close()

    def request(
        self,
        method: str,
        address: str,
        *,
        expect: tuple[int, ...],
        headers: Mapping[str, str] | None = None,
        body: bytes | Body | None = None,
        also: tuple[str, ...] = (),
        stream: bool = False,
        seconds: int = _READ_SECONDS,
    ) -> requests.Response:
        """Ask for `address` (relative to the repository, or whole) and return an answer with a status in `expect`.

        `also` names further scopes the request needs. Raises GoneError for 404 unless expected, BrokenError when the
        registry cannot be reached, RegistryError for every other refusal.
        """
        url = urljoin(self.base, address)
        scopes = (self._scope, *also)
        sending = {"headers": dict(headers or {}), "data": body, "timeout": (_CONNECT_SECONDS, seconds)}
        response = self._send(method, url, scopes, sending)
        # A body that was made while it was sent cannot be sent twice; a request without one always comes before it.
        if response.status_code == 401 and not isinstance(body, Body):
            try:
                satisfied = self._satisfy(response, scopes)
            except BaseException:
                response.close()
                raise
            if satisfied:
                response.close()
                response = self._send(method, url, scopes, sending)
        if response.status_code not in expect:
            with response:
                self._refuse(response)
        if not stream:
            # Read to its end, so that the connection can be used again.
            with response:
                self.read(response, _MAX_ERROR)
        return response

    def _send(self, method: str, url: str, scopes: tuple[str, ...], sending: Mapping[str, Any]) -> requests.Response:
        """Send, and follow redirections of what is only read: blobs often lie with another host."""
        for _ in range(_REDIRECTS):
            self._check_encrypted(url)
            authorise = self._authorisation(scopes) if _origin(url) == _origin(self.base) else _as_it_is
            response = self._http_request(method, url, auth=authorise, **sending)
            target = response.headers.get("Location")
            if method not in ("GET", "HEAD") or not response.is_redirect or not target:
                return response
            response.close()
            url = urljoin(url, target)
        raise RegistryError(f"{self.reference.host} redirects in a circle", details=(_shown(url),))

    def _http_request(self, method: str, url: str, **arguments: Any) -> requests.Response:
        import requests

        # A proxy of the environment cannot reach this machine under its own name.
        proxies = {"http": "", "https": ""} if is_loopback(urlsplit(url).netloc) else None
        try:
            return self._http.request(method, url, allow_redirects=False, stream=True, proxies=proxies, **arguments)
        except requests.exceptions.SSLError as error:
            raise RegistryError(
                f"{urlsplit(url).netloc} shows a certificate that is not trusted here",
                details=(_words_of(error),),
                hint="name the file of your CA certificates in REQUESTS_CA_BUNDLE",
            ) from error
        except requests.exceptions.RequestException as error:
            raise self.unreachable(error, urlsplit(url).netloc) from error

    def unreachable(self, error: Exception, host: str | None = None) -> BrokenError:
        """Return the error for a connection that was not made or broke off."""
        return BrokenError(
            f"the registry {host or self.reference.host} cannot be reached, or broke off",
            details=(_words_of(error),),
            hint="check the name, the network and the proxy (HTTPS_PROXY), then try again: what was sent is kept",
        )

    def _check_encrypted(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme == "https" or (parts.scheme == "http" and (self.insecure or is_loopback(parts.netloc))):
            return
        raise RegistryError(
            f"{self.reference.host} leads to an address without encryption: {_shown(url)}",
            hint="if that is a registry of your own in a network you trust, add --insecure",
        )

    def _authorisation(self, scopes: tuple[str, ...]) -> Callable[[Any], Any]:
        """Return what adds the header to a request; being there at all, it keeps requests from asking ~/.netrc."""
        token = self._tokens.get(scopes)
        if token is not None and token.until <= time.monotonic():
            # Renewed before it is refused, because a body that is made while it is sent cannot be sent again.
            token = self._tokens[scopes] = self._token(self._asked, scopes)
        if token is not None:
            header = f"Bearer {token.value}"
        elif self._basic is not None:
            header = _basic(self._basic)
        else:
            return _as_it_is

        def authorise(request: Any) -> Any:
            request.headers["Authorization"] = header
            return request

        return authorise

    def _satisfy(self, response: requests.Response, scopes: tuple[str, ...]) -> bool:
        """Do what the registry's challenge asks for; return whether there is anything new to try."""
        if _origin(response.url) != _origin(self.base):
            # Another host, to which we were redirected, has no claim to the registry's credentials.
            return False
        asked = challenges(response.headers.get("WWW-Authenticate", ""))
        if "realm" in asked.get("bearer", {}):
            self._asked = asked["bearer"]
            self._tokens[scopes] = self._token(self._asked, scopes)
            return True
        if "basic" in asked and self._basic is None:
            self._basic = self._logins(self.reference.host)
            return self._basic is not None
        return False

    def _token(self, asked: Mapping[str, str], scopes: tuple[str, ...]) -> Token:
        """Get a token where the registry sends us for it, with the user's credentials where there are any."""
        url = urljoin(self.base, asked["realm"])
        self._check_encrypted(url)
        login = self._logins(self.reference.host)
        service = {"service": asked["service"]} if "service" in asked else {}
        began = time.monotonic()
        if login is not None and login.identity_token:
            form = {"grant_type": "refresh_token", "refresh_token": login.secret, "client_id": _CLIENT}
            form |= {**service, "scope": " ".join(scopes)}
            response = self._http_request("POST", url, data=form, auth=_as_it_is, timeout=_CONNECT_SECONDS)
        else:
            headers = {"Authorization": _basic(login)} if login is not None else {}
            response = self._http_request(
                "GET",
                url,
                params={**service, "scope": list(scopes)},
                headers=headers,
                auth=_as_it_is,
                timeout=_CONNECT_SECONDS,
            )
        with response:
            if response.status_code != 200:
                self._refuse(response)
            answer = self._json(response)
        value = answer.get("token") or answer.get("access_token")
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            raise RegistryError(f"{_shown(url)} gave no token", hint="try again; if it stays so, tell who runs it")
        lifetime = answer.get("expires_in")
        seconds = lifetime if isinstance(lifetime, int) and lifetime > 0 else DEFAULT_LIFETIME
        return Token(value=value, until=began + max(seconds - MARGIN, seconds / 2))

    def _json(self, response: requests.Response) -> Mapping[str, Any]:
        import json

        try:
            answer = json.loads(self.read(response, _MAX_TOKEN))
        except (ValueError, RecursionError):
            answer = None
        return answer if isinstance(answer, dict) else {}

    def read(self, response: requests.Response, limit: int) -> bytes:
        """Return the body of an answer of at most `limit` bytes. Raises RegistryError when there are more."""
        import requests

        content = bytearray()
        try:
            for chunk in response.iter_content(64 << 10):
                content += chunk
                if len(content) > limit:
                    raise RegistryError(f"{self.reference.host} answers with more than {limit >> 10} KiB")
        except requests.exceptions.RequestException as error:
            raise self.unreachable(error) from error
        return bytes(content)

    def _refuse(self, response: requests.Response) -> NoReturn:
        """Raise the error for an answer that is not what was asked for."""
        status, host = response.status_code, self.reference.host
        words = self._words(response)
        details = (f"{_shown(response.url)} answers {status}", *words)
        if status in (401, 403):
            known = self._basic is not None or self._logins(host) is not None
            raise RegistryError(
                f"{host} does not let you {self._doing}",
                details=(*details, "credentials of the Docker configuration were used" if known else "not logged in"),
                hint=f"`docker login {host}`, with an account that may" if host != DOCKER_HUB else "`docker login`",
            )
        if status == 404:
            raise GoneError(f"{host} does not have it: {self._doing}", details=details)
        if status == 429:
            raise RegistryError(
                f"{host} refuses more requests for now", details=details, hint="wait, or log in with `docker login`"
            )
        hint = "the registry's log tells more; what was sent is kept, so try again" if status >= 500 else None
        raise RegistryError(f"{host} refuses to {self._doing}", details=details, hint=hint)

    def _words(self, response: requests.Response) -> tuple[str, ...]:
        """Return the registry's own explanation (OCI distribution spec, "Error codes"), fit for a screen."""
        import json

        try:
            errors = json.loads(self.read(response, _MAX_ERROR))["errors"]
            return tuple(
                printable(": ".join(str(error[key]) for key in ("code", "message") if error.get(key)), 200)
                for error in errors[:5]
            )
        except (RegistryError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
            return ()


def _as_it_is(request: Any) -> Any:
    return request


def _basic(login: Login) -> str:
    import base64

    return "Basic " + base64.b64encode(f"{login.user}:{login.secret}".encode()).decode()


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _shown(url: str) -> str:
    """Return an address without its query, which may hold a signature that gives access."""
    return printable(url.partition("?")[0], 200)


def _words_of(error: BaseException) -> str:
    return printable(system_cause(error)[1], 200)
