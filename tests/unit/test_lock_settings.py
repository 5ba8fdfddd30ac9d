"""The user's own index settings: pip's are read as pip reads them, uv's win, and nothing of them shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from reprobox.errors import UsageError
from reprobox.lock.addresses import scrub, without_credentials
from reprobox.lock.pip_settings import configuration_files, read_pip_settings
from reprobox.lock.requirements_text import IndexOptions
from reprobox.lock.settings import Settings, gather_settings
from tests.unit.lock_support import become_user

NONE = IndexOptions()


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    become_user(monkeypatch, tmp_path / "home")
    return tmp_path / "home"


def configure(home: Path, text: str) -> None:
    (home / "pip.conf").write_text(text)


def test_pip_files_are_looked_for_where_pip_looks_for_them(tmp_path: Path) -> None:
    environment = {"HOME": "/h", "XDG_CONFIG_DIRS": "/x:/y", "VIRTUAL_ENV": "/v"}
    assert [str(path) for path in configuration_files(environment)] == [
        "/x/pip/pip.conf",
        "/y/pip/pip.conf",
        "/etc/pip.conf",
        "/h/.pip/pip.conf",
        "/h/.config/pip/pip.conf",
        "/v/pip.conf",
    ]
    chosen = tmp_path / "mine.conf"
    chosen.write_text("")
    assert [str(path) for path in configuration_files({"HOME": "/h", "PIP_CONFIG_FILE": str(chosen)})] == [
        "/etc/xdg/pip/pip.conf",
        "/etc/pip.conf",
        str(chosen),
    ]
    assert configuration_files({"PIP_CONFIG_FILE": "/dev/null"}) == []


def test_a_later_file_a_nearer_section_and_the_environment_win(tmp_path: Path) -> None:
    for place, text in {
        "x/pip/pip.conf": "[global]\nindex-url = https://machine/simple\nextra_index_url = https://machine/extra\n",
        "h/.config/pip/pip.conf": "[global]\nindex-url = https://user/simple\n[install]\nfind-links = /a\n  /b\n",
    }.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(text)
    environment = {"HOME": str(tmp_path / "h"), "XDG_CONFIG_DIRS": str(tmp_path / "x"), "PIP_NO_INDEX": "1"}
    settings = read_pip_settings(environment)
    assert settings.indexes.index_url == "https://user/simple"
    assert settings.indexes.extra_index_urls == ("https://machine/extra",)
    assert settings.indexes.find_links == ("/a", "/b")
    assert settings.indexes.no_index
    assert read_pip_settings({**environment, "PIP_INDEX_URL": "https://env/simple"}).indexes.index_url == (
        "https://env/simple"
    )


def test_a_broken_pip_file_is_named(home: Path) -> None:
    configure(home, "index-url = before any section\n")
    with pytest.raises(UsageError, match="pip's configuration cannot be read"):
        gather_settings(home, NONE)


def test_pip_indexes_reach_uv_by_environment_and_never_by_command_line(home: Path) -> None:
    configure(
        home,
        "[global]\nindex-url = https://me:secret@example.org/simple\nextra-index-url = https://me:secret@other.org/s\n",
    )
    settings = gather_settings(home, NONE)
    assert settings.environment["UV_DEFAULT_INDEX"] == "https://me:secret@example.org/simple"
    assert settings.environment["UV_INDEX"] == "https://me:secret@other.org/s"
    assert settings.arguments == ("--index-strategy", "unsafe-best-match")
    assert "secret" not in " ".join(settings.arguments + settings.constraint_arguments)


def test_uv_keeps_its_own_strategy_without_extra_indexes_of_pip(home: Path) -> None:
    configure(home, "[global]\nindex-url = https://example.org/simple\n")
    assert gather_settings(home, NONE).arguments == ()


@pytest.mark.parametrize("how", ["environment", "uv.toml", "pyproject.toml", "user"])
def test_where_the_user_has_set_indexes_for_uv_those_win(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str
) -> None:
    configure(home, "[global]\nindex-url = https://pip.org/simple\nextra-index-url = https://pip.org/extra\n")
    project = tmp_path / "project" / "deep"
    project.mkdir(parents=True)
    if how == "environment":
        monkeypatch.setenv("UV_DEFAULT_INDEX", "https://uv.org/simple")
    elif how == "uv.toml":
        (project.parent / "uv.toml").write_text('[pip]\nindex-url = "https://uv.org/simple"\n')
    elif how == "pyproject.toml":
        (project / "pyproject.toml").write_text('[[tool.uv.index]]\nname = "own"\nurl = "https://uv.org/simple"\n')
    else:
        (home / ".config" / "uv").mkdir(parents=True)
        (home / ".config" / "uv" / "uv.toml").write_text('[[index]]\nurl = "https://uv.org/simple"\n')
    settings = gather_settings(project, NONE)
    assert settings.arguments == ()
    assert settings.environment.get("UV_DEFAULT_INDEX", "https://uv.org/simple") == "https://uv.org/simple"
    assert "UV_INDEX" not in settings.environment


def test_an_index_in_the_requirements_file_replaces_the_configured_ones(home: Path) -> None:
    configure(home, "[global]\nindex-url = https://pip.org/simple\nextra-index-url = https://pip.org/extra\n")
    settings = gather_settings(home, IndexOptions(index_url="https://file.org/simple"))
    assert "UV_DEFAULT_INDEX" not in settings.environment
    assert "UV_INDEX" not in settings.environment


def test_a_folder_or_file_index_that_is_not_there_is_left_out(home: Path) -> None:
    configure(
        home,
        f"[global]\nfind-links = {home} {home}/nowhere\nextra-index-url = file://{home}/none/simple\n",
    )
    settings = gather_settings(home, NONE)
    assert settings.environment["UV_FIND_LINKS"] == home.as_uri()
    assert "UV_INDEX" not in settings.environment
    assert settings.warnings == ("pip's find-links names a folder that does not exist here; it is left out",)


def test_constraints_certificates_hosts_and_proxy_of_pip_are_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    (home / "ca.pem").write_text("")
    configure(
        home,
        f"[global]\nconstraint = {home}/c.txt\ncert = {home}/ca.pem\ntrusted-host = plain.org\n"
        "proxy = http://proxy:3128\npre = yes\n",
    )
    settings = gather_settings(home, NONE)
    assert settings.constraint_arguments == ("--constraints", f"{home}/c.txt")
    assert settings.environment["SSL_CERT_FILE"] == settings.cert == f"{home}/ca.pem"
    assert settings.environment["UV_INSECURE_HOST"] == "plain.org"
    assert settings.trusts("https://plain.org/x.whl")
    assert not settings.trusts("https://other.org/x.whl")
    assert settings.proxy == "http://proxy:3128"
    assert settings.arguments == ("--prerelease", "allow")


def test_credentials_are_found_for_the_same_scheme_host_and_port_only() -> None:
    settings = Settings(folder=Path(), addresses=("https://plain.org/s", "https://me:s%40fe@example.org:8443/simple"))
    assert settings.credentials_for("https://example.org:8443/files/a.whl") == ("me", "s@fe")
    assert settings.credentials_for("https://example.org/files/a.whl") is None
    assert settings.credentials_for("http://example.org:8443/files/a.whl") is None
    assert settings.credentials_for("https://plain.org/a.whl") is None


def test_credentials_of_named_uv_indexes_are_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_INDEX", "my-own=https://private.org/simple https://me:pw@second.org/simple")
    monkeypatch.setenv("UV_INDEX_MY_OWN_USERNAME", "me")
    monkeypatch.setenv("UV_INDEX_MY_OWN_PASSWORD", "s@f/e%")
    settings = gather_settings(home, NONE)
    assert settings.credentials_for("https://private.org/a.whl") == ("me", "s@f/e%")
    assert settings.credentials_for("https://second.org/a.whl") == ("me", "pw")


def test_the_fingerprint_follows_every_setting_and_reveals_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {gather_settings(home, NONE).fingerprint}
    configure(home, f"[global]\nindex-url = https://me:secret@example.org/simple\nconstraint = {home}/c.txt\n")
    seen.add(gather_settings(home, NONE).fingerprint)
    (home / "c.txt").write_text("click<9\n")
    seen.add(gather_settings(home, NONE).fingerprint)
    monkeypatch.setenv("UV_EXCLUDE_NEWER", "2026-01-01")
    seen.add(gather_settings(home, NONE).fingerprint)
    (home / "uv.toml").write_text('resolution = "lowest"\n')
    seen.add(gather_settings(home, NONE).fingerprint)
    monkeypatch.setenv("UV_CONSTRAINT", f"one.txt {home}/c.txt")
    seen.add(gather_settings(home, NONE).fingerprint)
    (home / "one.txt").write_text("click<8\n")
    seen.add(gather_settings(home, NONE).fingerprint)
    assert len(seen) == 7
    assert all(len(fingerprint) == 64 for fingerprint in seen)
    unchanged = gather_settings(home, NONE).fingerprint
    monkeypatch.setenv("UV_CACHE_DIR", "/elsewhere")
    assert gather_settings(home, NONE).fingerprint == unchanged


def test_addresses_lose_credentials_when_kept_and_everything_when_shown() -> None:
    assert without_credentials("https://me:pw@example.org:8443/a?b#c") == "https://example.org:8443/a?b#c"
    assert (
        scrub("Failed to fetch: `https://me:pw@example.org/simple/` (see x)") == "Failed to fetch: `(address)` (see x)"
    )
