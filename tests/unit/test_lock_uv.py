"""The uv that is installed, for real and without a network: what `lock/uv_words.py` reads is worded as it expects.

A failure here means that this uv words something otherwise: teach `uv_words.py` its words (the older ones stay, see
`test_lock_words.py`), and only then raise the bound on uv in pyproject.toml.
"""

from __future__ import annotations

import os
import ssl
import subprocess
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from reprobox.lock.requirements_text import IndexOptions
from reprobox.lock.settings import gather_settings
from reprobox.lock.uv_command import Compiled, UvFailure, compile_pylock, uv_version
from reprobox.lock.uv_words import explain, no_solution, without_wheels, yanked
from tests.unit.lock_support import PLATFORM, PYTHON, become_offline_user, make_wheel, served, sha256_of

PROJECT = Path(__file__).parents[2] / "pyproject.toml"

EXCLUDING = f"requirements.txt asks for packages that exclude each other (Python {PYTHON}, {PLATFORM})"
NO_WHEEL = f"offers no wheel for Python {PYTHON} on {PLATFORM}"


@dataclass
class User:
    """Somebody with a folder of wheels and no index, who asks uv for things."""

    wheels: Path
    project: Path
    monkeypatch: pytest.MonkeyPatch
    arguments: tuple[str, ...] = field(default=())

    def asks(self, text: str) -> Compiled:
        settings = gather_settings(self.project, IndexOptions())
        return compile_pylock(text, settings, python=PYTHON, platform=PLATFORM, arguments=self.arguments)

    def has_an_index(self, address: str, **variables: str) -> None:
        """Have the index at `address`, and no folder."""
        settings = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": address, "UV_HTTP_RETRIES": "0", **variables}
        for name, value in settings.items():
            self.monkeypatch.setenv(name, value)


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> User:
    user = User(become_offline_user(monkeypatch, tmp_path), tmp_path / "project", monkeypatch)
    user.project.mkdir()
    make_wheel(user.wheels, "alpha", "1.0", requires=("beta>=2",))
    make_wheel(user.wheels, "beta", "1.5")
    make_wheel(user.wheels, "beta", "2.0")
    make_wheel(user.wheels, "newer", "1.0", tag="cp313-cp313-manylinux_2_28_x86_64")
    (user.wheels / "sourceonly-1.0.tar.gz").write_bytes(b"")
    return user


def failure(user: User, text: str) -> UvFailure:
    with pytest.raises(UvFailure) as caught:
        user.asks(text)
    return caught.value


def check(failure: UvFailure, message: str, *, unsolvable: bool) -> None:
    """Fail, with uv's own words, unless they are explained by `message`."""
    error = explain(failure, source="requirements.txt", python=PYTHON, platform=PLATFORM)
    words = f"uv {uv_version()} says otherwise than lock/uv_words.py expects:\n{failure.text}"
    assert error.message == message, words
    assert no_solution(failure) is unsolvable, words
    # Neither uv's layout nor what says nothing of the cause is left of it.
    for line in error.details:
        assert line == line.strip(" ×╰─▶│├·\t"), words
        assert not line.startswith(("hint: ", "error: ", "warning: ", "Resolved ")), words
        assert "No solution found" not in line, words


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nosuch\n", "no such package: nosuch"),
        ("beta==9\n", "no such version: beta==9"),
        ("beta>2\n", "no such version: beta>2"),
        ("beta>1.6,<1.9\n", "no such version: beta>1.6,<1.9"),
        ("beta!=1.5,!=2\n", "no such version: beta<1.5 or beta>1.5,<2 or beta>2"),
        ("alpha\nbeta<2\n", EXCLUDING),
        ("newer\n", f"newer {NO_WHEEL}"),
        ("sourceonly\n", f"sourceonly {NO_WHEEL}; only source archives, or wheels for other systems"),
    ],
)
def test_why_there_is_no_solution_is_understood(user: User, text: str, message: str) -> None:
    check(failure(user, text), message, unsolvable=True)


def test_a_package_that_an_index_does_not_have_is_understood(user: User, tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    with served(tmp_path / "index") as address:
        user.has_an_index(f"{address}/simple")
        check(failure(user, "nosuch\n"), "no such package: nosuch", unsolvable=True)


def test_packages_that_might_be_built_are_named(user: User) -> None:
    said = failure(user, "sourceonly\n")
    assert without_wheels(said) == {"sourceonly"}, f"uv {uv_version()} says otherwise:\n{said.text}"


def test_an_index_that_does_not_answer_is_understood(user: User) -> None:
    # A port of this machine that nobody listens on.
    user.has_an_index("http://127.0.0.1:9/simple")
    check(
        failure(user, "nosuch\n"),
        "requirements.txt cannot be resolved: no package index answers",
        unsolvable=False,
    )


def test_a_network_that_is_switched_off_is_understood(user: User) -> None:
    user.has_an_index("http://127.0.0.1:9/simple", UV_OFFLINE="1")
    check(
        failure(user, "nosuch\n"),
        "requirements.txt cannot be resolved: no package index answers",
        unsolvable=False,
    )


def test_refused_credentials_are_understood(user: User, tmp_path: Path) -> None:
    with served(tmp_path, password="right") as address:
        user.has_an_index(address.replace("http://", "http://reader:wrong@") + "/simple")
        check(
            failure(user, "nosuch\n"),
            "requirements.txt cannot be resolved: a package index refused the credentials it was given (401)",
            unsolvable=False,
        )


def test_a_certificate_that_is_not_trusted_is_understood(user: User, tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=test"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", "req", "-x509", *kind, *names], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with served(tmp_path, context=context) as address:
        user.has_an_index(f"{address}/simple")
        check(
            failure(user, "nosuch\n"),
            "requirements.txt cannot be resolved: a package index shows a certificate that is not trusted here",
            unsolvable=False,
        )


def test_a_build_of_pytorch_that_there_is_not_is_understood(user: User) -> None:
    user.arguments = ("--torch-backend", "cu0")
    said = failure(user, "beta\n")
    check(said, "there is no build of PyTorch named cu0 (environment.torch_backend)", unsolvable=False)
    (known,) = explain(said, source="requirements.txt", python=PYTHON, platform=PLATFORM).details
    assert {"auto", "cpu", "cu128"} <= set(known.removeprefix("this uv knows: ").split(", ")), known


@pytest.mark.parametrize(
    ("attribute", "warning"),
    [
        ("data-yanked", "gone==1.0 was withdrawn by its authors (yanked); choose another"),
        ('data-yanked="it &amp; all"', "gone==1.0 was withdrawn by its authors (yanked): it & all; choose another"),
    ],
)
def test_a_release_that_was_withdrawn_is_understood(user: User, tmp_path: Path, attribute: str, warning: str) -> None:
    page = tmp_path / "index" / "simple" / "gone"
    wheel = make_wheel(page, "gone", "1.0")
    link = f'<a href="{wheel.name}#sha256={sha256_of(wheel)}" {attribute}>{wheel.name}</a>'
    (page / "index.html").write_text(f"<!DOCTYPE html><html><body>{link}</body></html>")
    with served(tmp_path / "index") as address:
        user.has_an_index(f"{address}/simple")
        said = user.asks("gone==1.0\n").said
    assert yanked(said) == [warning], f"uv {uv_version()} says otherwise than lock/uv_words.py expects:\n{said}"


@pytest.mark.parametrize("bound", [">=", "<"])
def test_uv_has_a_lower_and_an_upper_bound(bound: str) -> None:
    # A release of uv that nobody has tried may say things otherwise, and they would be shown as failures of uv.
    requirements = map(Requirement, tomllib.loads(PROJECT.read_text())["project"]["dependencies"])
    (uv,) = (one for one in requirements if one.name == "uv")
    assert bound in {one.operator for one in uv.specifier}
