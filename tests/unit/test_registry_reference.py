from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox.errors import UsageError
from reprobox.registry.authorisation import challenges
from reprobox.registry.reference import Reference, is_loopback, parse_reference

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "host", "name", "tag", "digest"),
    [
        ("ghcr.io/me/paper:v1", "ghcr.io", "me/paper", "v1", None),
        ("oci://ghcr.io/me/paper", "ghcr.io", "me/paper", None, None),
        ("localhost:5000/a", "localhost:5000", "a", None, None),
        ("localhost/a:b", "localhost", "a", "b", None),
        (f"host:5000/a/b__c:v1@{DIGEST}", "host:5000", "a/b__c", "v1", DIGEST),
        ("[::1]:5000/a", "[::1]:5000", "a", None, None),
        ("me/paper:v1", "docker.io", "me/paper", "v1", None),
        (f"python@{DIGEST}", "docker.io", "library/python", None, DIGEST),
    ],
)
def test_a_reference_is_read_as_docker_reads_it(
    text: str, host: str, name: str, tag: str | None, digest: str | None
) -> None:
    found = parse_reference(text)
    assert found == Reference(host=host, name=name, tag=tag, digest=digest)
    assert parse_reference(str(found)) == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ghcr.io/Me/paper", "no name of a repository"),
        ("ghcr.io/", "no name"),
        ("ghcr.io/a//b", "no name"),
        ("ghcr.io/../b", "no name"),
        ("ho_st:5000/a", "no host"),
        ("user@ghcr.io/a", "no digest"),
        ("ghcr.io/a:", "no tag"),
        ("ghcr.io/a:-x", "no tag"),
        ("ghcr.io/a@sha256:12", "no digest"),
        (f"ghcr.io/a@{DIGEST.replace('256', '512')}", "no digest"),
        ("https://ghcr.io/a", "no host"),
        ("", "no name"),
        ("ghcr.io/a\x1b[2J", "\\x1b"),
    ],
)
def test_what_is_no_reference_is_refused_with_the_reason(text: str, words: str) -> None:
    with pytest.raises(UsageError, match="not a registry reference") as caught:
        parse_reference(text)
    assert words in caught.value.details[0]
    assert "\x1b" not in caught.value.message + caught.value.details[0]


@given(st.text(max_size=60) | st.from_regex(r"[a-z.:@/\[\]_-]{0,30}"))
def test_any_text_is_a_reference_or_a_usage_error(text: str) -> None:
    try:
        found = parse_reference(text)
    except UsageError:
        return
    assert parse_reference(str(found)) == found


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:5000", "127.0.0.1:80", "127.3.2.1", "[::1]:5000", "a.localhost"]
)
def test_this_machine_is_told(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["localhost.example.org", "128.0.0.1", "10.0.0.1:5000", "ghcr.io", "127.0.0.1.nip.io"])
def test_from_every_other(host: str) -> None:
    assert not is_loopback(host)


def test_challenges_are_read_with_commas_and_quotes_inside() -> None:
    header = (
        'Bearer realm="https://auth.example/token",service="a, b",scope="repository:x:pull,push" , '
        'Basic Realm="say \\"hello\\"", Negotiate abc=='
    )
    found = challenges(header)
    assert found["bearer"] == {
        "realm": "https://auth.example/token",
        "service": "a, b",
        "scope": "repository:x:pull,push",
    }
    assert found["basic"] == {"realm": 'say "hello"'}
    assert "negotiate" in found


@given(st.text(max_size=80) | st.from_regex(r'([A-Za-z]+ )?[a-z]*=?"?[a-z, \\]*"?'))
def test_no_header_breaks_the_reader(header: str) -> None:
    assert isinstance(challenges(header), dict)
