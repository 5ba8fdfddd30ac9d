"""Whatever is wrong with a bundle is found, named and said; nothing else can be hidden in one."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprobox.bundle import records
from reprobox.bundle.reader import is_bundle, open_bundle
from reprobox.errors import BundleError, NewerSchemaError, ReproboxError
from tests.unit.test_bundle_format import CONTENT, read, write


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(tmp_path_factory.mktemp("good") / "a.rbx", CONTENT).path.read_bytes()


def refused(content: bytes, folder: Path, match: str) -> ReproboxError:
    path = folder / "hostile.rbx"
    path.write_bytes(content)
    with pytest.raises(ReproboxError, match=match or "hostile.rbx") as caught:
        read(path)
    assert isinstance(caught.value, (BundleError, NewerSchemaError)) and caught.value.exit_code == 2
    return caught.value


def archive(members: list[tuple[str, bytes]], index: Any = None) -> bytes:
    """Write an archive as a bundle is, but with any names, in any order, and any index."""
    body, entries = b"", []
    listed = [{"path": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in members]
    whole = {"reprobox_bundle": 1, "name": "demo", "manifest": "sha256:" + "a" * 64, "members": listed}
    if callable(index):
        index(whole)
    text = index if isinstance(index, bytes) else json.dumps(whole, indent=1, ensure_ascii=False).encode() + b"\n"
    for name, data in [*members, ("index.json", text)]:
        entry = records.Entry(name=name, size=len(data), crc=zlib.crc32(data), offset=len(body))
        entries.append(entry)
        body += records.local_header(entry) + data
    directory = b"".join(records.directory_record(entry) for entry in entries)
    return body + directory + records.ending(len(entries), len(directory), len(body))


def test_the_helper_writes_what_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "a.rbx").write_bytes(archive([("a", b"1"), ("b/c", b"2")]))
    assert read(tmp_path / "a.rbx") == {"a": b"1", "b/c": b"2"}


@settings(max_examples=300)
@given(st.data())
def test_no_single_changed_byte_goes_unnoticed(
    good: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(good) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != good[at]))
    refused(good[:at] + bytes([value]) + good[at + 1 :], tmp_path_factory.mktemp("flip"), "")


@settings(max_examples=60)
@given(st.data())
def test_a_bundle_that_is_cut_off_anywhere_is_refused(
    good: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    size = data.draw(st.integers(4, len(good) - 1))
    refused(good[:size], tmp_path_factory.mktemp("cut"), "cut off")


@settings(max_examples=100)
@given(st.binary(max_size=300), st.booleans())
def test_arbitrary_bytes_are_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, begins: bool
) -> None:
    refused((records.LOCAL_MAGIC if begins else b"") + content, tmp_path_factory.mktemp("noise"), "hostile.rbx")


def test_content_before_behind_or_between_the_files_is_refused(good: bytes, tmp_path: Path) -> None:
    refused(b"#!/bin/sh\n" + good, tmp_path, "does not begin as a zip archive")
    refused(good + b"more", tmp_path, "something was added to its end")
    first = records.Entry(name="a", size=0, crc=0, offset=0)
    second = records.Entry(name="b", size=0, crc=0, offset=len(records.local_header(first)) + 7)
    body = records.local_header(first) + b"between" + records.local_header(second)
    directory = records.directory_record(first) + records.directory_record(second)
    refused(
        body + directory + records.ending(2, len(directory), len(body)), tmp_path, "not where the file before it ends"
    )


def test_two_files_in_one_place_are_refused(tmp_path: Path) -> None:
    first = records.Entry(name="a", size=0, crc=0, offset=0)
    other = records.Entry(name="b", size=0, crc=0, offset=0)
    body = records.local_header(first)
    directory = records.directory_record(first) + records.directory_record(other)
    refused(
        body + directory + records.ending(2, len(directory), len(body)), tmp_path, "not where the file before it ends"
    )


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (["/etc/passwd"], "absolute"),
        (["../outside"], r"`\.\.` part"),
        (["a/../../b"], r"`\.\.` part"),
        (["a//b"], "empty"),
        (["a/"], "empty"),
        (["C:\\a"], "backslash"),
        (["a\x1b[2Jb"], "control character"),
        (["x" * 300], "too long"),
        (["a", "a/b"], "both a file and a folder"),
        (["b", "a"], "out of order"),
        (["a", "a"], "twice"),
        (["index.json"], "twice|itself"),
    ],
)
def test_unsafe_names_are_refused_and_shown_harmlessly(names: list[str], match: str, tmp_path: Path) -> None:
    error = refused(archive([(name, b"") for name in names]), tmp_path, "")
    text = "\n".join([error.message, *error.details])
    assert re.search(match, text), text
    assert text.replace("\n", "").isprintable()


def with_zipfile(folder: Path, change: Callable[[zipfile.ZipInfo], None], method: int = zipfile.ZIP_STORED) -> bytes:
    path = folder / "other.zip"
    with zipfile.ZipFile(path, "w", method) as out:
        info = zipfile.ZipInfo("a")
        info.compress_type = method
        change(info)
        out.writestr(info, b"0" * 1000)
    return path.read_bytes()


def test_a_compressed_file_a_link_and_a_foreign_archive_are_refused(tmp_path: Path) -> None:
    def link(info: zipfile.ZipInfo) -> None:
        info.external_attr = (stat.S_IFLNK | 0o777) << 16

    refused(with_zipfile(tmp_path, lambda _: None, zipfile.ZIP_DEFLATED), tmp_path, "'a' is compressed")
    refused(with_zipfile(tmp_path, link), tmp_path, "a link, a folder or a special file")
    refused(with_zipfile(tmp_path, lambda _: None), tmp_path, "not as reprobox writes it")


def test_an_encrypted_file_is_refused(good: bytes, tmp_path: Path) -> None:
    at = good.index(records.CENTRAL_MAGIC)
    refused(good[: at + 8] + b"\x01\x08" + good[at + 10 :], tmp_path, "is encrypted")


def test_a_directory_that_claims_more_than_there_is_costs_nothing(good: bytes, tmp_path: Path) -> None:
    for count, size, offset in ((0xFFFFFFFF, 100, 0), (1, 1 << 62, 0), (1, 100, 1 << 62), (3, 0, 0)):
        refused(good[:30] + records.ending(count, size, offset), tmp_path, "cannot be used|cut off")
    end = struct.pack("<4sHHHHIIH", records.END_MAGIC, 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    refused(good[:30] + end, tmp_path, "cannot be used")


def test_a_header_that_differs_from_the_directory_is_refused(good: bytes, tmp_path: Path) -> None:
    # The place of a member's name in front of its content, which stream readers would believe.
    at = good.index(b"manifest.yaml")
    refused(good[:at] + b"manifest.yamL" + good[at + 13 :], tmp_path, "does not agree with the directory")


def test_a_damaged_member_is_found_before_its_last_bytes_are_given(tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    path = write(tmp_path / "a.rbx", {"large": content, "other": b"1"}).path
    whole = bytearray(path.read_bytes())
    whole[100] ^= 1
    path.write_bytes(whole)
    got = 0
    with open_bundle(path) as bundle:
        assert b"".join(bundle.chunks("other")) == b"1"
        with pytest.raises(BundleError, match="large does not match its hash"):
            for chunk in bundle.chunks("large"):
                got += len(chunk)
    assert got < len(content)


def test_a_member_whose_hash_in_the_index_is_another_is_refused(tmp_path: Path) -> None:
    def lie(index: dict[str, Any]) -> None:
        index["members"][0]["sha256"] = "0" * 64

    refused(archive([("a", b"1")], lie), tmp_path, "a does not match its hash")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda index: index["members"].pop(), "does not list the files"),
        (lambda index: index["members"][0].update(size=2), "does not list the files"),
        (lambda index: index["members"][0].update(path="b"), "does not list the files"),
        (lambda index: index["members"][0].update(size=-1), "expected a number of bytes"),
        (lambda index: index["members"][0].update(size=1.0), "expected a whole number"),
        (lambda index: index["members"][0].update(sha256="A" * 64), "64 hex digits"),
        (lambda index: index["members"][0].update(more=1), "not a key"),
        (lambda index: index.update(name="../x"), "the name of a run"),
        (lambda index: index.pop("manifest"), "manifest is missing"),
        (lambda index: index.update(reprobox_bundle=0), "expected 1"),
        (lambda index: index.update(reprobox_bundle=True), "whole number"),
        (lambda index: index.update(reprobox_bundle=2), "bundle of schema 2"),
        (lambda index: index.pop("reprobox_bundle"), "no bundle of reprobox"),
        (b"[1]", "no bundle of reprobox"),
        (b"{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"\xff", "is not JSON"),
        (b'{"reprobox_bundle": 1' + b"0" * 5000 + b"}", "is not JSON"),
        (b'{"reprobox_bundle": NaN}', "expected a whole number|mistakes"),
    ],
)
def test_an_index_that_is_not_right_is_refused(change: Any, match: str, tmp_path: Path) -> None:
    refused(archive([("a", b"1")], change), tmp_path, match)


def test_an_index_has_one_text_only(tmp_path: Path) -> None:
    listed = f'{{"path": "a", "size": 1, "sha256": "{"0" * 64}"}}'
    head = f'"reprobox_bundle": 1, "name": "demo", "manifest": "sha256:{"a" * 64}"'
    twice = f'{{{head}, "members": [], "members": [{listed}]}}'.encode()
    refused(archive([("a", b"1")], twice), tmp_path, "not as reprobox writes it")


def test_what_is_no_plain_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(BundleError, match="no plain file"), open_bundle(path):
            pass
    with pytest.raises(BundleError, match="cannot be read"), open_bundle(tmp_path / "missing"):
        pass


def test_a_zip_archive_is_told_from_a_manifest(tmp_path: Path, good: bytes) -> None:
    (tmp_path / "a").write_bytes(good)
    (tmp_path / "b").write_text("# This is a reprobox manifest")
    os.mkfifo(tmp_path / "pipe")
    found = [is_bundle(tmp_path / name) for name in ("a", "b", "pipe", "missing", ".")]
    assert found == [True, False, False, False, False]


def test_a_member_that_is_not_there_or_too_large_is_said(tmp_path: Path, good: bytes) -> None:
    (tmp_path / "a").write_bytes(good)
    with open_bundle(tmp_path / "a") as bundle:
        with pytest.raises(BundleError, match=r"holds no wheels/other\.whl"):
            bundle.chunks("wheels/other.whl")
        with pytest.raises(BundleError, match="expected at most 10"):
            bundle.content("manifest.yaml", limit=10)
