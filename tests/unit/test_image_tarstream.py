from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox.digests import digest_of
from reprobox.image import tarstream
from reprobox.image.layout import MTIME
from reprobox.image.tarstream import LayerWriter

_PARTS = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=150).filter(
    lambda part: part not in (".", "..")
)
_PATHS = st.lists(_PARTS, min_size=1, max_size=4).map("/".join)


@given(_PATHS, st.binary(max_size=2000), st.booleans())
def test_what_is_written_is_what_tarfile_reads(path: str, content: bytes, executable: bool) -> None:
    out = io.BytesIO()
    writer = LayerWriter(out)
    mode = 0o755 if executable else 0o644
    writer.file(path, len(content), (content,), mode=mode)
    writer.finish()
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        *folders, member = archive.getmembers()
        assert (member.name, member.mode, member.mtime, member.uid, member.gid) == (path, mode, MTIME, 0, 0)
        assert archive.extractfile(member).read() == content  # type: ignore[union-attr]
    assert [folder.name for folder in folders] == ["/".join(path.split("/")[:n]) for n in range(1, path.count("/") + 1)]


@given(_PATHS)
def test_links_to_long_or_foreign_names_survive(target: str) -> None:
    block = tarstream.symlink_header("link", target) + tarstream.END
    with tarfile.open(fileobj=io.BytesIO(block)) as archive:
        assert archive.getmember("link").linkname == target


def test_a_file_over_8_gib_states_its_size_in_an_extended_header() -> None:
    block = tarstream.file_header("big", (8 << 30) + 5)
    with tarfile.open(fileobj=io.BytesIO(block), ignore_zeros=True) as archive:
        member = archive.next()
    assert member is not None
    assert member.size == (8 << 30) + 5


def test_the_bytes_are_those_of_every_release() -> None:
    # A change of this digest changes every image's ID: raise ASSEMBLER_VERSION with it.
    out = io.BytesIO()
    writer = LayerWriter(out)
    writer.folder("opt/env")
    writer.symlink("opt/env/lib64", "lib")
    writer.file("opt/env/lib/" + "n" * 120, 3, (b"abc",))
    writer.file("opt/env/lib/Főtanúsítvány", 1, (b"x",), mode=0o755)
    writer.finish()
    assert digest_of(out.getvalue()) == "sha256:1ea16a15f7a69751c4c404df8a90ece3073c17e1a4757a5a555cf9423551bd48"


def test_content_of_another_length_than_announced_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 bytes came where 3"):
        LayerWriter(io.BytesIO()).file("a", 3, (b"ab",))
