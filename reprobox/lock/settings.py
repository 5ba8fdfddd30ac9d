"""The user's index settings brought together: uv's own, pip's, and those of the requirements file, and handed to uv.

uv reads its own settings by itself, and where it has some for a matter they win. For the rest pip's are handed over: by
environment variables where an address may carry a password (a command line can be read by every user of a machine).
"""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from reprobox.lock.addresses import credentials_of, same_host
from reprobox.lock.pip_settings import PipSettings, read_pip_settings
from reprobox.lock.requirements_text import IndexOptions

# Settings of uv by matter: the environment variables, and the keys of uv.toml, that mean the user has set it for uv.
_INDEX_VARIABLES = ("UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_NO_INDEX")
_INDEX_KEYS = ("index", "index-url", "extra-index-url", "no-index")
# Settings of uv that choose how it works and not what it finds.
_WITHOUT_EFFECT = ("UV_CACHE_DIR", "UV_NO_PROGRESS", "UV_NO_CACHE", "UV_CONCURRENT_DOWNLOADS", "UV_LINK_MODE", "UV")
# Variables that name files, separated by blanks, whose content restricts what uv finds.
_NAMING_FILES = ("UV_CONSTRAINT", "UV_OVERRIDE", "UV_EXCLUDE", "UV_BUILD_CONSTRAINT")
# Variables that would turn uv from the command it is given.
_NOT_FOR_UV = ("RUST_LOG", "UV_WORKING_DIR", "UV_PROJECT", "UV_PYTHON", "UV_CUSTOM_COMPILE_COMMAND")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What uv is started with and what wheels are fetched with.

    `arguments` and `environment` (the whole of it) are for uv; `constraint_arguments` too, kept apart because exact
    pins are looked up without them. `addresses` are all index and find-links addresses known, with their credentials;
    `cert` is a file of CA certificates; `fingerprint` changes when any setting changes and reveals none of them.
    """

    folder: Path
    arguments: tuple[str, ...] = ()
    constraint_arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    addresses: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] = ()
    cert: str | None = None
    proxy: str | None = None
    fingerprint: str = ""
    warnings: tuple[str, ...] = ()

    def credentials_for(self, url: str) -> tuple[str, str] | None:
        """Return the user name and password that the settings give for the host of `url`, or None."""
        for address in self.addresses:
            found = credentials_of(address)
            if found is not None and same_host(address, url):
                return found
        return None

    def trusts(self, url: str) -> bool:
        """Tell whether the user said to take the host of `url` without a valid certificate."""
        parts = urlsplit(url)
        return any(trusted in (parts.hostname, parts.netloc.rpartition("@")[2]) for trusted in self.trusted_hosts)


def gather_settings(folder: Path, options: IndexOptions, caller: Mapping[str, str] | None = None) -> Settings:
    """Bring the settings together for requirements in `folder` whose file sets `options` itself.

    `caller` is the environment of the user (default: this process's). uv is to be started in `folder`, because it
    looks for its own settings from there upwards.
    """
    caller = os.environ if caller is None else caller
    pip = read_pip_settings(caller)
    files = _uv_files(folder, caller)
    tables = [settings for _, settings in files]
    uv_keys = _keys(tables)

    def uv_has(variables: tuple[str, ...], keys: tuple[str, ...]) -> bool:
        return any(caller.get(name) for name in variables) or any(key in uv_keys for key in keys)

    environment = {name: value for name, value in caller.items() if name not in _NOT_FOR_UV}
    arguments: list[str] = []
    warnings: list[str] = []

    if not uv_has(_INDEX_VARIABLES, _INDEX_KEYS):
        arguments += _hand_over_indexes(pip.indexes, options, environment, uv_keys)
    if not uv_has(("UV_FIND_LINKS",), ("find-links",)):
        links, missing = _existing_links(pip.indexes.find_links)
        # uv takes a list with commas, so a comma inside an address is written as what it stands for.
        if links:
            environment["UV_FIND_LINKS"] = ",".join(link.replace(",", "%2C") for link in links)
        if missing:
            warnings.append(f"pip's find-links names {missing} that does not exist here; it is left out")
    constraint_arguments: list[str] = []
    if not uv_has(("UV_CONSTRAINT",), ("constraint-dependencies",)):
        for constraint in pip.constraints:
            constraint_arguments += ["--constraints", _absolute(constraint)]
    if pip.indexes.pre or options.pre:
        arguments += ["--prerelease", "allow"]
    trusted = (*pip.indexes.trusted_hosts, *options.trusted_hosts)
    if trusted and not uv_has(("UV_INSECURE_HOST",), ("allow-insecure-host",)):
        environment["UV_INSECURE_HOST"] = " ".join(trusted)
    cert = caller.get("SSL_CERT_FILE") or pip.cert
    if cert and Path(cert).is_file():
        environment["SSL_CERT_FILE"] = cert
    if pip.proxy and not any(name.lower() in ("https_proxy", "all_proxy") for name in caller):
        environment["ALL_PROXY"] = pip.proxy

    return Settings(
        folder=folder,
        arguments=tuple(arguments),
        constraint_arguments=tuple(constraint_arguments),
        environment=environment,
        addresses=tuple(_addresses(pip.indexes, options, caller, tables)),
        trusted_hosts=(*trusted, *caller.get("UV_INSECURE_HOST", "").split()),
        cert=cert if cert and Path(cert).is_file() else None,
        proxy=environment.get("ALL_PROXY") if pip.proxy else None,
        fingerprint=_fingerprint(pip, folder, caller, [raw for raw, _ in files]),
        warnings=tuple(warnings),
    )


def _hand_over_indexes(
    pip: IndexOptions, options: IndexOptions, environment: dict[str, str], uv_keys: set[str]
) -> list[str]:
    """Put pip's indexes into uv's environment; return the flags that go with them."""
    extra: list[str] = []
    # As in pip, an index that the requirements file names itself replaces the configured ones.
    if not options.index_url and not options.no_index:
        if pip.no_index:
            return ["--no-index"]
        extra = [url for url in pip.extra_index_urls if _is_there(url)]
        if pip.index_url and _is_there(pip.index_url):
            environment["UV_DEFAULT_INDEX"] = pip.index_url
        if extra:
            environment["UV_INDEX"] = " ".join(extra)
    if (
        (not extra and not options.extra_index_urls)
        or "index-strategy" in uv_keys
        or "UV_INDEX_STRATEGY" in environment
    ):
        return []
    # pip takes the best version from all indexes alike, uv only from the first that knows the name, so that nobody can
    # slip in a package under a private name. Settings made for pip are meant as pip means them: without this, an extra
    # index that holds an older release of a package would hide the newer ones of the main index.
    return ["--index-strategy", "unsafe-best-match"]


def _is_there(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme != "file" or Path(unquote(parts.path)).exists()


def _existing_links(links: tuple[str, ...]) -> tuple[list[str], str]:
    """Return find-links as addresses, and what to say of those left out: pip warns of a missing folder, uv fails."""
    found, missing = [], 0
    for link in links:
        if "://" in link and not link.startswith("file:"):
            found.append(link)
            continue
        path = Path(unquote(urlsplit(link).path)) if link.startswith("file:") else Path(_absolute(link))
        if path.exists():
            found.append(path.as_uri())
        else:
            missing += 1
    return found, "" if not missing else "a folder" if missing == 1 else f"{missing} folders"


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).expanduser().absolute())


def uv_tables(settings: Settings) -> list[dict[str, Any]]:
    """Return the settings that uv finds in files where it is started with `settings`, the strongest first."""
    return [table for _, table in _uv_files(settings.folder, settings.environment)]


def _uv_files(folder: Path, caller: Mapping[str, str]) -> list[tuple[bytes, dict[str, Any]]]:
    """Return the settings files that uv reads, as (bytes, table). Source: uv's documentation, Configuration files."""
    if caller.get("UV_NO_CONFIG"):
        return []
    if caller.get("UV_CONFIG_FILE"):
        return [found for found in (_toml(Path(caller["UV_CONFIG_FILE"])),) if found]
    result = []
    for place in (folder.absolute(), *folder.absolute().parents):
        own = _toml(place / "uv.toml")
        project = _toml(place / "pyproject.toml")
        table = project[1].get("tool", {}).get("uv") if project else None
        if own or isinstance(table, dict):
            # uv.toml takes precedence over pyproject.toml in one folder, and the nearest folder is the only one read.
            result.append(own or (json.dumps(table, sort_keys=True, default=str).encode(), dict(table or {})))
            break
    home = Path(caller.get("HOME") or Path.home())
    users = [Path(caller.get("XDG_CONFIG_HOME") or home / ".config") / "uv" / "uv.toml"]
    shared = (caller.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep)
    machine = [*(Path(place) / "uv" / "uv.toml" for place in shared), Path("/etc/uv/uv.toml")]
    for path in (*users, *machine):
        found = _toml(path)
        if found:
            result.append(found)
    return result


def _toml(path: Path) -> tuple[bytes, dict[str, Any]] | None:
    try:
        raw = path.read_bytes()
        return raw, tomllib.loads(raw.decode())
    except OSError:
        return None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        # uv reads the same file and says what is wrong with it, in better words.
        return raw, {}


def _keys(files: list[dict[str, Any]]) -> set[str]:
    tables = [table for settings in files for table in (settings, settings.get("pip")) if isinstance(table, dict)]
    return {key for table in tables for key in table}


def _addresses(
    pip: IndexOptions, options: IndexOptions, caller: Mapping[str, str], files: list[dict[str, Any]]
) -> list[str]:
    """Return every index and find-links address, uv's own first; they serve to find credentials for a host."""
    found: list[str] = []
    for name in ("UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL"):
        for word in caller.get(name, "").split():
            # `name=address` is how UV_INDEX gives an index a name.
            label, equals, address = word.partition("=")
            named = bool(equals) and "://" not in label
            found.append(_with_named_credentials(address, label, caller) if named else word)
    found += caller.get("UV_FIND_LINKS", "").split(",")
    for settings in files:
        for table in (settings, settings.get("pip")):
            if isinstance(table, dict):
                found += _addresses_in(table, caller)
    for indexes in (options, pip):
        found += [*([indexes.index_url] if indexes.index_url else []), *indexes.extra_index_urls, *indexes.find_links]
    return [os.path.expandvars(address) for address in found if "://" in address]


def _addresses_in(table: dict[str, Any], caller: Mapping[str, str]) -> list[str]:
    found: list[str] = []
    for key in ("index-url", "extra-index-url", "find-links"):
        value = table.get(key, [])
        found += [str(item) for item in (value if isinstance(value, list) else [value])]
    for index in table.get("index", []):
        if isinstance(index, dict) and "url" in index:
            found.append(_with_named_credentials(str(index["url"]), str(index.get("name", "")), caller))
    return found


def _with_named_credentials(url: str, name: str, caller: Mapping[str, str]) -> str:
    """Add the credentials that uv takes for a named index from UV_INDEX_NAME_USERNAME and _PASSWORD."""
    prefix = "UV_INDEX_" + "".join(letter if letter.isalnum() else "_" for letter in name.upper())
    user, password = caller.get(f"{prefix}_USERNAME"), caller.get(f"{prefix}_PASSWORD", "")
    if not name or not user:
        return url
    parts = urlsplit(url)
    return parts._replace(
        netloc=f"{quote(user, safe='')}:{quote(password, safe='')}@{parts.netloc.rpartition('@')[2]}"
    ).geturl()


def content_named(variable: str, folder: Path, caller: Mapping[str, str]) -> str:
    """Return a digest of the files that a variable of uv's names; empty when it names none. uv starts in `folder`."""
    paths = [folder / path for path in caller.get(variable, "").split(" ") if path]
    contents = [path.read_bytes() if path.is_file() else b"" for path in paths]
    return hashlib.sha256(b"".join(hashlib.sha256(each).digest() for each in contents)).hexdigest() if paths else ""


def _fingerprint(pip: PipSettings, folder: Path, caller: Mapping[str, str], files: list[bytes]) -> str:
    digest = hashlib.sha256(repr(pip).encode())
    for constraint in pip.constraints:
        path = Path(_absolute(constraint))
        digest.update(path.read_bytes() if path.is_file() else b"\0")
    for name in sorted(caller):
        if name.startswith("UV_") and name not in _WITHOUT_EFFECT:
            digest.update(f"{name}={caller[name]}\n".encode())
        if name in _NAMING_FILES:
            digest.update(content_named(name, folder, caller).encode())
    for raw in files:
        digest.update(hashlib.sha256(raw).digest())
    return digest.hexdigest()
