"""A bundle is a plain zip archive, the same bytes each time, and gives back what was put in."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprobox.bundle import records
from reprobox.bundle.reader import is_bundle, open_bundle
from reprobox.bundle.writer import Source, Written, of_bytes, of_file, write_bundle
from reprobox.errors import BundleError

MANIFEST = "sha256:" + "a" * 64
CONTENT = {"manifest.yaml": b"reprobox_manifest: 1\n", "data/ä b": b"", "wheels/demo.whl": b"\0\1\2" * 1000}


def write(target: Path, content: dict[str, bytes], name: str = "demo") -> Written:
    sources = [of_bytes(path, data) for path, data in content.items()]
    return write_bundle(target, name=name, manifest=MANIFEST, sources=sources, progress=lambda *_: None)


def read(path: Path) -> dict[str, bytes]:
    with open_bundle(path) as bundle:
        return {name: b"".join(bundle.chunks(name)) for name in bundle.members}


def test_what_was_put_in_comes_out(tmp_path: Path) -> None:
    written = write(tmp_path / "a.rbx", CONTENT)
    assert read(written.path) == CONTENT
    assert is_bundle(written.path)
    whole = written.path.read_bytes()
    assert (written.size, written.sha256) == (len(whole), hashlib.sha256(whole).hexdigest())


def test_the_order_in_which_members_are_given_does_not_matter(tmp_path: Path) -> None:
    one = write(tmp_path / "a.rbx", CONTENT)
    other = write(tmp_path / "b.rbx", dict(reversed(CONTENT.items())))
    assert one.path.read_bytes() == other.path.read_bytes()


def test_the_bytes_of_the_format_do_not_change_unnoticed(tmp_path: Path) -> None:
    # The figure stands for schema 1 of the format: another one would mean that bundles of before have another hash.
    assert (
        write(tmp_path / "a.rbx", CONTENT).sha256 == "4722221590a00961d846d506b207effae1853360fc143968dc053e4f38b0f645"
    )


def test_python_opens_it_as_a_zip_archive(tmp_path: Path) -> None:
    written = write(tmp_path / "a.rbx", CONTENT)
    with zipfile.ZipFile(written.path) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()[:-1]} == CONTENT
        index = json.loads(archive.read("index.json"))
    assert [(member["path"], member["size"]) for member in index["members"]] == [
        (path, len(CONTENT[path])) for path in sorted(CONTENT, key=str.encode)
    ]
    assert all(member["sha256"] == hashlib.sha256(CONTENT[member["path"]]).hexdigest() for member in index["members"])


@pytest.mark.skipif(not shutil.which("unzip"), reason="unzip is not here")
def test_unzip_opens_it(tmp_path: Path) -> None:
    written = write(tmp_path / "a.rbx", CONTENT)
    subprocess.run(["unzip", "-q", str(written.path), "-d", str(tmp_path / "out")], check=True, capture_output=True)
    assert (tmp_path / "out" / "wheels" / "demo.whl").read_bytes() == CONTENT["wheels/demo.whl"]


@pytest.mark.parametrize("limit", [0, 1, 25, 60, 3000, 3500])
def test_numbers_that_need_zip64_are_written_as_others_read_them(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Fields count as full from `limit` on, in place of 4 GiB: what stands in them is then in the zip64 records.
    real_size, real_number = records._FULL_32, records._FULL_16

    class Full(int):
        """Compares as `limit`, but is written as a full field."""

        def __le__(self, other: int) -> bool:
            return limit <= other

        def __gt__(self, other: int) -> bool:
            return limit > other

    monkeypatch.setattr(records, "_FULL_32", Full(real_size))
    monkeypatch.setattr(records, "_FULL_16", Full(real_number))
    monkeypatch.setattr(records, "min", lambda value, full: full if full <= value else value, raising=False)
    written = write(tmp_path / "a.rbx", CONTENT)
    assert read(written.path) == CONTENT
    with zipfile.ZipFile(written.path) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()[:-1]} == CONTENT


def test_a_large_number_takes_the_zip64_form_of_the_specification() -> None:
    entry = records.Entry(name="a", size=5 << 30, crc=1, offset=6 << 30)
    found, end = records.read_directory_record(records.directory_record(entry), 0)
    assert (found, end) == (entry, len(records.directory_record(entry)))
    assert records.local_header(entry).endswith((5 << 30).to_bytes(8, "little") * 2)
    tail = records.ending(70_000, 5 << 20, 7 << 30)
    assert records.read_ending(tail) == (70_000, 5 << 20, 7 << 30)
    assert len(tail) == records.ZIP64_END_SIZE + records.END_SIZE


def test_memory_stays_small_whatever_a_member_holds(tmp_path: Path) -> None:
    size = 96 << 20
    (tmp_path / "large").write_bytes(bytes(size))
    source = of_file("large", tmp_path / "large")
    tracemalloc.start()
    written = write_bundle(tmp_path / "a.rbx", name="a", manifest=MANIFEST, sources=[source], progress=lambda *_: None)
    with open_bundle(written.path) as bundle:
        assert sum(len(chunk) for chunk in bundle.chunks("large")) == size
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


def test_a_source_that_is_not_what_was_announced_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "a.rbx").write_text("before")
    for size, sha256 in ((3, None), (5, None), (4, "0" * 64)):
        source = Source(path="a", size=size, read=lambda: [b"ab", b"cd"], sha256=sha256, what="the file a")
        with pytest.raises(BundleError, match="the file a changed while it was packed"):
            write_bundle(tmp_path / "a.rbx", name="a", manifest=MANIFEST, sources=[source], progress=lambda *_: None)
    assert [path.name for path in tmp_path.iterdir()] == ["a.rbx"]
    assert (tmp_path / "a.rbx").read_text() == "before"


@pytest.mark.parametrize("path", ["/a", "../a", "a//b", "a\\b", "a\nb", "a/", "", "x" * 256, "index.json"])
def test_a_name_that_would_not_be_read_is_not_written(path: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be packed"):
        write(tmp_path / "a.rbx", {path: b""})
    assert not list(tmp_path.iterdir())


def test_too_many_files_are_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reprobox.bundle.index.MAX_MEMBERS", 2)
    with pytest.raises(BundleError, match="3 files") as caught:
        write(tmp_path / "a.rbx", CONTENT)
    assert "--no-data" in (caught.value.hint or "")
    assert not list(tmp_path.iterdir())


names = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=3).map("/".join)


@settings(max_examples=100)
@given(st.dictionaries(names, st.binary(max_size=50), max_size=6))
def test_any_names_are_refused_or_come_back_and_stay_below_their_folder(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, bytes]
) -> None:
    folder = tmp_path_factory.mktemp("bundle")
    try:
        written = write(folder / "a.rbx", content)
    except BundleError:
        return
    assert read(written.path) == content
    for name in content:
        assert (folder / name).resolve().is_relative_to(folder) and (folder / name).resolve() != folder
    with zipfile.ZipFile(io.BytesIO(written.path.read_bytes())) as archive:
        assert set(archive.namelist()) == {*content, "index.json"}
