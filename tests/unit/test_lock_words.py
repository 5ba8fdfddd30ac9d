"""uv's words, in the forms that its versions give them, become errors that a person can act on."""

from __future__ import annotations

import pytest

from reprobox.lock.uv_command import UvFailure
from reprobox.lock.uv_words import explain, no_solution, yanked

CURRENT = "error: No solution found when resolving dependencies\n  cause: "
BOXED = "  × No solution found when resolving dependencies:\n  ╰─▶ "


def message_of(text: str, status: int = 1) -> str:
    return explain(
        UvFailure(status, text), source="requirements.txt", python="3.11", platform="x86_64-manylinux_2_36"
    ).message


@pytest.mark.parametrize("start", [CURRENT, BOXED])
@pytest.mark.parametrize(
    ("cause", "message"),
    [
        (
            "Because nosuch was not found in the package registry and you require nosuch, we ...",
            "no such package: nosuch",
        ),
        (
            "Because there is no version of click==99.0 and you require click==99.0, we ...",
            "no such version: click==99.0",
        ),
        ("Because all versions of docopt have no usable wheels and you require docopt ...", "docopt offers no wheel"),
        ("Because tf==1.0.0 has no wheels with a matching Python ABI tag (e.g., `cp311`) ...", "tf offers no wheel"),
        (
            "Because only beta<=2.0 is available and you require beta>2, we can conclude that your requirements are "
            "unsatisfiable.",
            "no such version: beta>2",
        ),
        (
            "Because only the following versions of beta are available:\n          beta==1.5\n          beta>1.9\n"
            "      and you require one of:\n          beta<1.5\n          beta>1.5,<1.9\n"
            "      we can conclude that your requirements are unsatisfiable.",
            "no such version: beta<1.5 or beta>1.5,<1.9",
        ),
        (
            "Because only beta<=2.5 is available and all versions of alpha depend on beta>=9, we can conclude that\n"
            "      all versions of alpha cannot be used.\n"
            "      And because you require alpha, we can conclude that your requirements are unsatisfiable.",
            "requirements.txt asks for packages that exclude each other",
        ),
        (
            "Because there is no\n      version of a-name-that-has-line-broken==9.0 and you require it, we ...",
            "no such version: a-name-that-has-line-broken==9.0",
        ),
        ("Because all versions of docopt have no\n      usable wheels and you require ...", "docopt offers no wheel"),
        (
            "Because black==24.1.0 depends on click>=8.0.0 and you require black==24.1.0, ...\n"
            "      And because you require click<8, we can conclude that your requirements are unsatisfiable.",
            "requirements.txt asks for packages that exclude each other",
        ),
    ],
)
def test_a_resolution_without_a_solution_names_its_cause(start: str, cause: str, message: str) -> None:
    assert message_of(start + cause + "\n").startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("error: Failed to fetch: `https://h.org/a`\n  Caused by: dns error\n", "no package index answers"),
        (
            "error: Request failed after 3 retries\n  cause: invalid peer certificate: UnknownIssuer\n",
            "a package index shows a certificate that is not trusted here",
        ),
        (CURRENT + "Because a was not found in the cache\nhint: the network was disabled.", "no package index answers"),
        (CURRENT + "Because a was not found\nhint: An index URL (x) could not be queried (401 Unauthorized)", "(401)"),
        ("error: Failed to write\n  cause: No space left on device (os error 28)\n", "the disk is full"),
    ],
)
def test_trouble_with_an_index_or_the_disk_is_told_apart_from_a_missing_solution(text: str, message: str) -> None:
    assert message in message_of(text)
    assert not no_solution(UvFailure(1, text))


def test_a_build_of_pytorch_that_uv_does_not_know_is_named_by_the_field_and_not_by_a_flag_of_uv() -> None:
    said = (
        "error: invalid value 'cu127' for '--torch-backend <TORCH_BACKEND>'\n"
        "  [possible values: auto, cpu, cu130, cu128, rocm6.3, xpu]\n\n  tip: a similar value exists: 'cu128'\n"
    )
    error = explain(UvFailure(2, said), source="requirements.txt", python="3.11", platform="x86_64-manylinux_2_36")
    assert error.message == "there is no build of PyTorch named cu127 (environment.torch_backend)"
    assert error.details == ("this uv knows: auto, cpu, cu130, cu128, rocm6.3, xpu",)
    assert error.hint == "Choose one of these; auto takes the one for this machine's driver."


def test_the_reason_keeps_uvs_sentences_and_loses_layout_warnings_and_addresses() -> None:
    text = (
        "warning: something about https://me:pw@h.org\n"
        + BOXED
        + "Because a depends on b>=2\n      and c depends on b<2, no.\n"
        "\n      hint: look at https://me:pw@h.org/simple\n"
    )
    error = explain(UvFailure(1, text), source="r.txt", python="3.11", platform="p")
    assert error.details == ("Because a depends on b>=2", "and c depends on b<2, no.", "look at (address)")


def test_a_release_that_was_withdrawn_is_said_with_its_reason() -> None:
    said = (
        'Resolved 2 packages in 2ms\nwarning: `attrs==21.1.0` is yanked (reason: "Not importable; see https://x.y/z")\n'
    )
    assert yanked(said + "warning: `six==1` is yanked\n") == [
        "attrs==21.1.0 was withdrawn by its authors (yanked): Not importable; see (address); choose another",
        "six==1 was withdrawn by its authors (yanked); choose another",
    ]
    assert yanked("warning: something else\n") == []
