"""One file fetched from where an index says it is: by HTTP, with the user's proxy and credentials, or from a folder."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import unquote, urlsplit

from reprobox.errors import LockError
from reprobox.files import Output
from reprobox.lock.settings import Settings

if TYPE_CHECKING:
    import requests

_BLOCK = 1 << 18
_ATTEMPTS = 4
_CONNECT_SECONDS, _READ_SECONDS = 15, 30
_TRANSIENT = (429, 500, 502, 503, 504)


class GoneError(Exception):
    """The address leads to no file (any more)."""


class Transfer:
    """Fetches files; safe to use from several threads. A context manager: leaving it closes its connections."""

    def __init__(self, settings: Settings) -> None:
        """Fetch with the credentials, certificates and proxy of `settings`, and those that requests finds itself."""
        self._settings = settings
        self._sessions: list[requests.Session] = []
        # requests does not promise that threads may share a session, and one a thread keeps connections open as well.
        self._own = threading.local()
        if settings.trusted_hosts:
            import urllib3  # heavy; only a download needs it

            # The user said to trust the host; one warning a file would tell nothing new.
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)

    def __enter__(self) -> Self:
        """Nothing is opened before the first file."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        for session in self._sessions:
            session.close()

    def save(self, url: str, out: Output, progress: Callable[[int], None]) -> None:
        """Write the file at `url` to `out`.

        `progress` is called with the bytes just received (negative when an attempt starts over) and may raise to stop.
        Raises GoneError when there is no such file, LockError when it cannot be fetched.
        """
        name = unquote(urlsplit(url).path.rpartition("/")[2])
        if urlsplit(url).scheme == "file":
            return _write(_file_blocks(Path(unquote(urlsplit(url).path))), out, progress)
        import requests  # heavy; only a download needs it

        for attempt in range(1, _ATTEMPTS + 1):
            received = 0

            def count(size: int) -> None:
                nonlocal received
                received += size
                progress(size)

            try:
                return _write(self._http_blocks(url, name), out, count)
            except requests.exceptions.SSLError as error:
                raise LockError(
                    f"{name} cannot be fetched: the index shows a certificate that is not trusted here",
                    hint="Name the file of your CA certificates in SSL_CERT_FILE or in pip's `cert`.",
                ) from error
            except (requests.exceptions.RequestException, _BusyError) as error:
                # What broke off may work in a moment; a file that starts anew must not be counted twice.
                progress(-received)
                out.restart()
                if attempt == _ATTEMPTS:
                    raise LockError(
                        f"{name} cannot be fetched: "
                        + (
                            f"the index answers {error}"
                            if isinstance(error, _BusyError)
                            else "the index does not answer"
                        ),
                        details=(f"{_ATTEMPTS} attempts, the last ended with {type(error).__name__.strip('_')}",),
                        hint="Check the network and the proxy (HTTPS_PROXY), then try again: what was fetched is kept.",
                    ) from error
                time.sleep(0.5 * 2 ** (attempt - 1))
        raise AssertionError("every attempt returns or raises")

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._own, "session", None)
        if session is None:
            import requests

            session = requests.Session()
            # A wheel is what its bytes are: a server that packs it for transport would change what is hashed.
            session.headers["Accept-Encoding"] = "identity"
            if self._settings.proxy:
                session.proxies = {"http": self._settings.proxy, "https": self._settings.proxy}
            self._own.session = session
            self._sessions.append(session)
        return session

    def _http_blocks(self, url: str, name: str) -> Iterator[bytes]:
        # None leaves the choice to requests: netrc for the credentials, REQUESTS_CA_BUNDLE for the certificates.
        verify = False if self._settings.trusts(url) else self._settings.cert
        response = self._session().get(
            url,
            stream=True,
            auth=self._settings.credentials_for(url),
            verify=verify,
            timeout=(_CONNECT_SECONDS, _READ_SECONDS),
        )
        with response:
            if response.status_code in (404, 410):
                raise GoneError(name)
            if response.status_code in (401, 403):
                raise LockError(
                    f"{name} cannot be fetched: the index refuses the credentials given ({response.status_code})",
                    hint="Check the user name and password of the index in the settings of pip or uv, or in netrc.",
                )
            if response.status_code in _TRANSIENT:
                raise _BusyError(response.status_code)
            if not response.ok:
                raise LockError(f"{name} cannot be fetched: the index answers {response.status_code}")
            yield from response.iter_content(_BLOCK)


class _BusyError(Exception):
    """The index answers that it cannot answer now."""


def _file_blocks(path: Path) -> Iterator[bytes]:
    try:
        handle = path.open("rb")
    except OSError as error:
        raise GoneError(path.name) from error
    with handle:
        while block := handle.read(_BLOCK):
            yield block


def _write(blocks: Iterator[bytes], out: Output, progress: Callable[[int], None]) -> None:
    for block in blocks:
        out.write(block)
        progress(len(block))
