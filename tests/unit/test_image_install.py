from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

import pytest

from reprobox.errors import ImageError
from reprobox.image.assemble import Image, assemble
from reprobox.lock.model import LockedPackage
from reprobox.progress import Observer
from tests.unit.image_support import entries, make_base, make_wheel, read

SITE = "opt/env/lib/python3.11/site-packages"


def built(tmp_path: Path, *wheels: tuple[LockedPackage, Path]) -> Image:
    return assemble(make_base(tmp_path), wheels, cache=tmp_path, observer=Observer())


def test_files_go_where_pip_puts_them(tmp_path: Path) -> None:
    data = "demo-1.0.data"
    wheel = make_wheel(
        tmp_path,
        files={
            "demo/__init__.py": b"",
            "demo/tool": b"\x7fELF",
            f"{data}/purelib/pure.py": b"1",
            f"{data}/platlib/plat.py": b"2",
            f"{data}/headers/demo.h": b"3",
            f"{data}/data/share/demo/notes": b"4",
            f"{data}/scripts/demo-run": b"#!python -E\nprint(1)\n",
            f"{data}/scripts/demo-sh": b"#!/bin/sh\n",
        },
        executable=["demo/tool"],
    )
    image = built(tmp_path, wheel)
    layer = image.layers[-1]
    found = entries(tmp_path, layer)
    modes = {name: member.mode for name, member in found.items() if member.isfile()}
    assert modes == {
        f"{SITE}/demo/__init__.py": 0o644,
        f"{SITE}/demo/tool": 0o755,
        f"{SITE}/pure.py": 0o644,
        f"{SITE}/plat.py": 0o644,
        "opt/env/include/site/python3.11/demo/demo.h": 0o644,
        "opt/env/share/demo/notes": 0o644,
        "opt/env/bin/demo-run": 0o755,
        "opt/env/bin/demo-sh": 0o755,
        f"{SITE}/demo-1.0.dist-info/METADATA": 0o644,
        f"{SITE}/demo-1.0.dist-info/WHEEL": 0o644,
        f"{SITE}/demo-1.0.dist-info/INSTALLER": 0o644,
        f"{SITE}/demo-1.0.dist-info/RECORD": 0o644,
    }
    assert read(tmp_path, layer, "opt/env/bin/demo-run") == b"#!/opt/env/bin/python -E\nprint(1)\n"
    assert read(tmp_path, layer, "opt/env/bin/demo-sh") == b"#!/bin/sh\n"
    assert read(tmp_path, layer, f"{SITE}/demo-1.0.dist-info/INSTALLER") == b"reprobox\n"
    assert {(m.uid, m.gid, m.uname, m.gname) for m in found.values()} == {(0, 0, "", "")}
    assert len({member.mtime for member in found.values()}) == 1


def test_folders_come_before_what_is_in_them(tmp_path: Path) -> None:
    image = built(tmp_path, make_wheel(tmp_path, files={"a/b/c.py": b"", "a-b.py": b"", "a/x.py": b""}))
    for layer in image.layers:
        seen: set[str] = set()
        for name in entries(tmp_path, layer):
            assert "/" not in name or name.rpartition("/")[0] in seen
            seen.add(name)


def test_record_lists_every_installed_file_with_its_hash(tmp_path: Path) -> None:
    points = b"[console_scripts]\ndemo = demo:main\n"
    wheel = make_wheel(
        tmp_path,
        files={"demo.py": b"def main(): pass\n", "demo-1.0.dist-info/entry_points.txt": points},
    )
    layer = built(tmp_path, wheel).layers[-1]
    rows = list(csv.reader(io.StringIO(read(tmp_path, layer, f"{SITE}/demo-1.0.dist-info/RECORD").decode())))
    assert rows == sorted(rows)
    listed = {row[0] for row in rows}
    assert "../../../bin/demo" in listed
    files = {name for name, member in entries(tmp_path, layer).items() if member.isfile()}
    assert {str((Path("/") / SITE / path).resolve())[1:] for path in listed} == files
    assert [row[0] for row in rows if not row[1]] == ["demo-1.0.dist-info/RECORD"]


def test_entry_points_become_scripts_of_the_environment(tmp_path: Path) -> None:
    points = b"[console_scripts]\none = demo.sub:Group.run [extra]\n[gui_scripts]\nTwo-2 = demo:two\n[other]\nx = y\n"
    wheel = make_wheel(
        tmp_path,
        files={
            "demo.py": b"",
            "demo-1.0.dist-info/entry_points.txt": points,
            # pip lets the generated script win over one that the wheel brings under its name.
            "demo-1.0.data/scripts/one": b"#!python\nold\n",
        },
    )
    layer = built(tmp_path, wheel).layers[-1]
    one = read(tmp_path, layer, "opt/env/bin/one").decode()
    assert one.startswith("#!/opt/env/bin/python\n")
    assert "from demo.sub import Group\n" in one
    assert "sys.exit(Group.run())\n" in one
    compile(one, "one", "exec")
    assert "from demo import two\n" in read(tmp_path, layer, "opt/env/bin/Two-2").decode()


@pytest.mark.parametrize("line", ["x = os:system('rm')", "x = demo", "../x = demo:main", "x = demo:main; import os"])
def test_an_entry_point_that_is_no_function_is_refused(tmp_path: Path, line: str) -> None:
    points = f"[console_scripts]\n{line}\n".encode()
    wheel = make_wheel(tmp_path, files={"demo-1.0.dist-info/entry_points.txt": points})
    with pytest.raises(ImageError, match="an entry point that is no function"):
        built(tmp_path, wheel)


@pytest.mark.parametrize("path", ["demo-1.0.data/other/x", "foreign-1.0.data/scripts/x"])
def test_a_data_folder_that_nobody_knows_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ImageError, match="a data folder"):
        built(tmp_path, make_wheel(tmp_path, files={path: b""}))


def test_two_wheels_with_different_content_in_one_file_are_both_named(tmp_path: Path) -> None:
    one = make_wheel(tmp_path, name="one", files={"shared/x.py": b"1"})
    two = make_wheel(tmp_path, name="two", files={"shared/x.py": b"2"})
    with pytest.raises(ImageError, match=r"one 1\.0 and two 1\.0.*shared/x\.py"):
        built(tmp_path, one, two)


def test_two_wheels_with_equal_content_in_one_file_share_it(tmp_path: Path) -> None:
    one = make_wheel(tmp_path, name="one", files={"shared/__init__.py": b"", "shared/one.py": b""})
    two = make_wheel(tmp_path, name="two", files={"shared/__init__.py": b"", "shared/two.py": b""})
    assert f"{SITE}/shared/__init__.py" in entries(tmp_path, built(tmp_path, one, two).layers[-1])


def test_a_path_that_is_a_file_for_one_wheel_and_a_folder_for_another_is_refused(tmp_path: Path) -> None:
    one = make_wheel(tmp_path, name="one", files={"shared": b"1"})
    two = make_wheel(tmp_path, name="two", files={"shared/x.py": b"2"})
    with pytest.raises(ImageError, match=r"one 1\.0 and two 1\.0: lib/python3\.11/site-packages/shared$"):
        built(tmp_path, one, two)


@pytest.mark.parametrize("path", ["scripts/python", "scripts/python3.11", "data/pyvenv.cfg", "data/lib64/x.so"])
def test_a_wheel_may_not_replace_the_environment_itself(tmp_path: Path, path: str) -> None:
    with pytest.raises(ImageError, match="it would replace the environment's"):
        built(tmp_path, make_wheel(tmp_path, files={f"demo-1.0.data/{path}": b"x"}))


def test_two_files_of_one_wheel_that_meet_in_one_place_are_refused(tmp_path: Path) -> None:
    files = {"demo.py": b"1", "demo-1.0.data/purelib/demo.py": b"2"}
    with pytest.raises(ImageError, match="two of its files become"):
        built(tmp_path, make_wheel(tmp_path, files=files))


def test_folders_listed_in_the_wheel_do_no_harm(tmp_path: Path) -> None:
    package, path = make_wheel(tmp_path, files={"pkg/x.py": b""})
    with zipfile.ZipFile(path, "a") as archive:
        archive.mkdir("pkg")
    from tests.unit.image_support import locked_as

    assert built(tmp_path, (locked_as(path), path)).record.diff_ids
    assert package.name == "demo"
