from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox.errors import ImageError
from reprobox.image import wheel as wheel_module
from reprobox.image.assemble import assemble
from reprobox.image.wheel import path_problem
from reprobox.progress import Observer
from tests.unit.image_support import add, locked_as, make_base, make_wheel

Change = Callable[[zipfile.ZipFile], None]


def spoilt(tmp_path: Path, change: Change) -> ImageError:
    """Add something to a good wheel and return why it is refused."""
    _, path = make_wheel(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        change(archive)
    return refusal(tmp_path, path)


def refusal(tmp_path: Path, path: Path, name: str = "demo", version: str = "1.0") -> ImageError:
    with pytest.raises(ImageError) as caught:
        base = make_base(tmp_path / "cache")
        assemble(base, [(locked_as(path, name, version), path)], cache=tmp_path / "cache", observer=Observer())
    assert path.name in caught.value.message
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/passwd", "absolute"),
        ("../../../bin/sh", "`..`"),
        ("pkg/../../x", "`..`"),
        ("pkg//x", "empty"),
        ("pkg\\x", "backslash"),
        ("pkg/.wh.other", "deletion"),
        ("pkg/.wh..wh..opq", "deletion"),
        ("n" * 256, "too long"),
        ("a\nb", "control character"),
    ],
)
def test_a_path_that_leaves_its_place_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    assert reason in spoilt(tmp_path, lambda archive: add(archive, name, b"x")).message


@given(st.text(max_size=300))
def test_an_accepted_path_stays_inside_and_survives_a_file_system(text: str) -> None:
    if path_problem(text) is None:
        parts = text.split("/")
        assert not text.startswith("/")
        assert all(part not in ("", ".", "..") and len(part.encode()) <= 255 for part in parts)
        assert not any(part.startswith(".wh.") for part in parts)
        assert "\0" not in text


def test_a_link_is_refused(tmp_path: Path) -> None:
    error = spoilt(tmp_path, lambda archive: add(archive, "pkg/link", b"/etc/passwd", 0o777, 0o120000))
    assert "a link or special file: 'pkg/link'" in error.message


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    assert "one name twice: 'demo.py'" in spoilt(tmp_path, lambda archive: add(archive, "demo.py", b"x")).message


def test_a_file_that_is_not_the_one_in_record_is_refused(tmp_path: Path) -> None:
    _, path = make_wheel(tmp_path, record={"demo.py": b"something else"})
    assert "demo.py is not the file that RECORD names" in refusal(tmp_path, path).message


def test_a_wheel_that_is_not_the_locked_file_is_refused(tmp_path: Path) -> None:
    package, path = make_wheel(tmp_path)
    other = make_wheel(tmp_path, files={"demo.py": b"value = 2\n"})[0]
    assert package.sha256 != other.sha256
    with pytest.raises(ImageError, match="not the one that the lock names"):
        assemble(make_base(tmp_path), [(package, path)], cache=tmp_path, observer=Observer())


@pytest.mark.parametrize(
    ("tag", "fits"),
    [
        ("py3-none-any", True),
        ("cp311-cp311-manylinux_2_36_x86_64", True),
        ("cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64", True),
        ("cp38-abi3-manylinux1_x86_64", True),
        ("cp311-cp311-linux_x86_64", True),
        ("cp311-cp311-manylinux_2_37_x86_64", False),
        ("cp312-cp312-manylinux_2_17_x86_64", False),
        ("cp311-cp311-manylinux_2_17_aarch64", False),
        ("cp311-cp311-musllinux_1_2_x86_64", False),
        ("cp311-cp311-win_amd64", False),
    ],
)
def test_only_wheels_for_the_bases_python_and_platform_are_taken(tmp_path: Path, tag: str, fits: bool) -> None:
    package, path = make_wheel(tmp_path, tag=tag)
    if fits:
        assemble(make_base(tmp_path), [(package, path)], cache=tmp_path, observer=Observer())
    else:
        error = refusal(tmp_path, path)
        assert "another Python or platform" in error.message
        assert error.details == ("the base has CPython 3.11, glibc 2.36, amd64",)


def test_a_wheel_of_another_project_under_this_name_is_refused(tmp_path: Path) -> None:
    _, path = make_wheel(tmp_path, name="other")
    renamed = path.rename(tmp_path / "demo-1.0-py3-none-any.whl")
    assert "it holds other-1.0.dist-info" in refusal(tmp_path, renamed).message


def test_a_file_name_that_is_not_the_locked_version_is_refused(tmp_path: Path) -> None:
    _, path = make_wheel(tmp_path)
    assert "its name is not the locked one" in refusal(tmp_path, path, version="1.1").message


@pytest.mark.parametrize("missing", ["RECORD", "WHEEL"])
def test_a_wheel_without_its_papers_is_refused(tmp_path: Path, missing: str) -> None:
    _, whole = make_wheel(tmp_path)
    path = tmp_path / "part" / whole.name
    path.parent.mkdir()
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for info in source.infolist():
            if not info.filename.endswith(missing):
                target.writestr(info, source.read(info))
    assert f"{missing} is missing" in refusal(tmp_path, path).message


def test_a_later_wheel_format_is_refused(tmp_path: Path) -> None:
    _, path = make_wheel(tmp_path, wheel_version="2.0")
    assert "its format is version 2.0" in refusal(tmp_path, path).message


def test_a_wheel_cut_off_is_refused(tmp_path: Path) -> None:
    _, path = make_wheel(tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    assert "not a zip archive (or cut off)" in refusal(tmp_path, path).message


def test_a_size_that_deflate_cannot_reach_is_refused(tmp_path: Path) -> None:
    _, path = make_wheel(tmp_path)
    content = bytearray(path.read_bytes())
    # The uncompressed size stands 24 bytes into the first entry of the central directory.
    struct.pack_into("<I", content, content.find(b"PK\x01\x02") + 24, 1 << 30)
    path.write_bytes(content)
    assert "impossible compression ratio: 'demo.py'" in refusal(tmp_path, path).message


def test_a_file_longer_than_the_directory_says_is_refused(tmp_path: Path) -> None:
    _, path = make_wheel(tmp_path)
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.find(b"PK\x01\x02") + 24, 3)
    path.write_bytes(content)
    assert "refused" in refusal(tmp_path, path).message


def test_too_many_files_are_refused_before_the_directory_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheel_module, "MAX_ENTRIES", 3)
    _, path = make_wheel(tmp_path)
    assert "its directory lists 4 files" in refusal(tmp_path, path).message


def test_a_wheel_that_unpacks_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel_module, "MAX_UNPACKED", 100)
    _, path = make_wheel(tmp_path, files={"demo.py": b"#" * 101})
    assert "unpacks to" in refusal(tmp_path, path).message


def test_overlapping_files_are_refused(tmp_path: Path) -> None:
    _, path = make_wheel(tmp_path)
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.find(b"PK\x01\x02") + 20, len(content))
    path.write_bytes(content)
    assert "its files overlap" in refusal(tmp_path, path).message


def test_a_missing_wheel_is_named(tmp_path: Path) -> None:
    package, path = make_wheel(tmp_path)
    path.unlink()
    with pytest.raises(ImageError, match=r"the wheel of demo 1\.0 cannot be read"):
        assemble(make_base(tmp_path), [(package, path)], cache=tmp_path, observer=Observer())
