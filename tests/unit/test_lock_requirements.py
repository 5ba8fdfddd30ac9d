"""Reading what the user wrote: requirements files, pyproject.toml, and what is missing or cannot be locked."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox.errors import SpecError
from reprobox.lock.requirements import find_requirements
from reprobox.lock.requirements_text import logical_lines, parse_lines


def write(folder: Path, text: str, name: str = "requirements.txt") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_missing_file_is_named_with_those_that_exist(tmp_path: Path) -> None:
    write(tmp_path, "click\n")
    write(tmp_path, "[project]\nname = 'x'\n", "pyproject.toml")
    with pytest.raises(SpecError) as caught:
        find_requirements(tmp_path, "requirement.txt")
    assert caught.value.message == "no such requirements file: requirement.txt"
    assert "pyproject.toml, requirements.txt" in caught.value.details[0]
    assert caught.value.hint == "Did you mean requirements.txt?"
    assert str(tmp_path) not in str(caught.value.details)


def test_a_project_without_any_requirements_file_is_told_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        find_requirements(tmp_path, "requirements.txt")
    assert caught.value.hint is not None
    assert "requirements.txt" in caught.value.hint


@pytest.mark.parametrize("name", ["setup.py", "environment.yml", "Pipfile"])
def test_a_file_that_cannot_be_read_without_running_code_is_refused_with_what_to_do(tmp_path: Path, name: str) -> None:
    write(tmp_path, "", name)
    with pytest.raises(SpecError, match=f"cannot be read from {name}") as caught:
        find_requirements(tmp_path, name)
    assert caught.value.hint


def test_a_lock_of_another_tool_beside_a_missing_file_is_pointed_out(tmp_path: Path) -> None:
    write(tmp_path, "", "uv.lock")
    with pytest.raises(SpecError) as caught:
        find_requirements(tmp_path, "requirements.txt")
    assert caught.value.hint == "Did you mean uv.lock?"


def test_entries_comments_includes_hashes_and_options_are_read(tmp_path: Path) -> None:
    one = "1" * 64
    write(tmp_path, "six==1.17.0  # small\n", "more/base.txt")
    write(tmp_path, "click<9\n", "limits.txt")
    (tmp_path / "wheels").mkdir()
    write(
        tmp_path,
        f"\ufeff# what we need\n-r more/base.txt\n-climits.txt\n--extra-index-url=https://example.org/simple\n"
        f'-f wheels\nMy_Package[fast]==2.0 ; python_version > "3" \\\n    --hash=sha256:{one} \\\n'
        f"    --hash=sha512:ab\n\nnumpy>=1,<3\n",
    )
    read = find_requirements(tmp_path, "requirements.txt")
    assert [(entry.name, entry.pinned) for entry in read.entries] == [
        ("six", True),
        ("my-package", True),
        ("numpy", False),
    ]
    assert read.entries[1].where == "requirements.txt, line 6"
    assert read.promised == {"my-package": frozenset({one})}
    assert read.options.extra_index_urls == ("https://example.org/simple",)
    assert read.options.find_links == (str(tmp_path / "wheels"),)
    assert len(read.content) == 3
    assert not read.complete


def test_a_file_with_every_entry_pinned_by_hash_is_a_lock(tmp_path: Path) -> None:
    write(tmp_path, f"a==1 --hash=sha256:{'1' * 64}\nb==2 \\\n  --hash=sha256:{'2' * 64}\n")
    assert find_requirements(tmp_path, "requirements.txt").complete


def test_a_wildcard_version_is_no_pin(tmp_path: Path) -> None:
    write(tmp_path, "a==1.*\n")
    assert not find_requirements(tmp_path, "requirements.txt").entries[0].pinned


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("-e .", "an editable project"),
        ("--editable=./lib", "an editable project"),
        ("git+https://reader:secret@example.org/a/b.git", "a version-control address"),
        ("tool @ git+ssh://git@example.org/a/b.git@main", "a version-control address"),
        ("tool @ https://reader:secret@example.org/tool-1-py3-none-any.whl", "a direct address"),
        ("tool @ file:///home/me/tool-1-py3-none-any.whl", "a local path"),
        ("./lib", "a local path"),
        ("../lib/tool.whl", "a local path"),
        ("tool-1-py3-none-any.whl", "a local path"),
        ("lib/tool", "a local path"),
    ],
)
def test_an_entry_that_is_a_place_is_refused_with_its_line(tmp_path: Path, line: str, what: str) -> None:
    write(tmp_path, f"click\n\n{line}\n")
    with pytest.raises(SpecError) as caught:
        find_requirements(tmp_path, "requirements.txt")
    assert caught.value.message == f"requirements.txt, line 3: {what} cannot be part of a lock"
    assert "secret" not in str(caught.value.details)
    assert caught.value.hint


@pytest.mark.parametrize("line", ["cli ck", "click=>8", "click==", "!", "click[", "click; python"])
def test_a_line_that_is_no_requirement_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    write(tmp_path, f"numpy\n{line}\n")
    with pytest.raises(SpecError, match=r"requirements\.txt, line 2: not a requirement"):
        find_requirements(tmp_path, "requirements.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--frobnicate 3", "line 1: unknown option: --frobnicate"),
        ("--index-url", "line 1: --index-url needs a value"),
        ("-r nowhere.txt", "line 1: no such file to include: nowhere.txt"),
        ("-r https://example.org/r.txt", "line 1: a remote file cannot be included"),
        ("-r requirements.txt", "requirements.txt includes itself"),
        ("--find-links 'a", "line 1: the options cannot be read"),
    ],
)
def test_options_and_includes_that_cannot_be_followed_are_refused(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, text + "\n")
    with pytest.raises(SpecError) as caught:
        find_requirements(tmp_path, "requirements.txt")
    assert message in caught.value.message


def test_a_mistake_in_an_included_file_is_reported_there(tmp_path: Path) -> None:
    write(tmp_path, "\nno good\n", "sub/base.txt")
    write(tmp_path, "-r sub/base.txt\n")
    with pytest.raises(SpecError, match=r"sub/base\.txt, line 2"):
        find_requirements(tmp_path, "requirements.txt")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_bytes(b"click\n\xff\xfe\n")
    with pytest.raises(SpecError, match="is not text in UTF-8"):
        find_requirements(tmp_path, "requirements.txt")


def test_pyproject_gives_its_project_dependencies(tmp_path: Path) -> None:
    write(tmp_path, '[project]\nname = "x"\nversion = "1"\ndependencies = ["click>=8", "six"]\n', "pyproject.toml")
    read = find_requirements(tmp_path, "pyproject.toml")
    assert [entry.name for entry in read.entries] == ["click", "six"]


def test_only_what_a_resolution_depends_on_counts_in_pyproject(tmp_path: Path) -> None:
    text = '[project]\nname = "x"\nversion = "1"\ndependencies = ["six"]\n'
    write(tmp_path, text, "pyproject.toml")
    before = find_requirements(tmp_path, "pyproject.toml").content
    write(tmp_path, text + "[tool.ruff]\nline-length = 90\n", "pyproject.toml")
    assert find_requirements(tmp_path, "pyproject.toml").content == before
    write(tmp_path, text + "[tool.uv]\nresolution = 'lowest'\n", "pyproject.toml")
    assert find_requirements(tmp_path, "pyproject.toml").content != before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool.x]\n", "has no [project] table"),
        ("[project\n", "is not valid TOML"),
        ("[project]\ndynamic = ['dependencies']\n", "leaves its dependencies to the build"),
        ("[project]\ndependencies = 'six'\n", "project.dependencies is not a list of strings"),
        (
            "[project]\ndependencies = ['six', 'x @ git+https://e.org/x']\n",
            "project.dependencies[1]: a version-control",
        ),
    ],
)
def test_a_pyproject_that_names_no_packages_is_refused(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, text, "pyproject.toml")
    with pytest.raises(SpecError) as caught:
        find_requirements(tmp_path, "pyproject.toml")
    assert message in caught.value.message


names = st.from_regex(r"[A-Za-z][A-Za-z0-9]{0,8}", fullmatch=True)


@given(st.lists(st.tuples(names, st.booleans(), st.booleans()), max_size=8))
def test_comments_blank_lines_and_continuations_never_change_what_is_required(
    entries: list[tuple[str, bool, bool]],
) -> None:
    text = ""
    for name, commented, continued in entries:
        text += "# a comment\n\n" if commented else ""
        text += f"{name}" + (" \\\n  >=1" if continued else ">=1") + ("  # why" if commented else "") + "\n"
    found = [(line.requirement or "").replace(" ", "") for line in parse_lines(text, "requirements.txt")]
    assert found == [f"{name}>=1" for name, _, _ in entries]


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=80))
def test_any_text_is_parsed_or_refused_in_words(text: str) -> None:
    try:
        lines = list(parse_lines(text, "requirements.txt"))
    except SpecError as error:
        assert error.message.startswith("requirements.txt, line ")
    else:
        assert len(lines) == len(list(logical_lines(text)))
