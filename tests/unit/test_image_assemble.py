from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import types
from functools import partial
from pathlib import Path

import pytest

from reprobox.errors import ImageError, StorageError
from reprobox.image import environment
from reprobox.image import wheel as wheel_module
from reprobox.image.assemble import Image, assemble
from reprobox.image.layout import ASSEMBLER_VERSION
from reprobox.lock.model import LockedPackage
from reprobox.progress import Observer
from tests.measured import measured
from tests.unit.counting import calls
from tests.unit.image_support import entries, make_base, make_wheel, read

Wheels = list[tuple[LockedPackage, Path]]


@pytest.fixture
def wheels(tmp_path: Path) -> Wheels:
    source = tmp_path / "wheels"
    source.mkdir()
    big = random.Random(1).randbytes(9 << 20)
    return [
        make_wheel(source, name="small", files={"small/__init__.py": b"x = 1\n", "small/ü.txt": b"1"}),
        make_wheel(source, name="big", files={"big.bin": big, "big.py": b""}),
        make_wheel(source, name="tiny"),
    ]


def build(cache: Path, wheels: Wheels) -> Image:
    return assemble(make_base(cache), wheels, cache=cache, observer=Observer())


def test_a_large_wheel_has_its_own_layer_below_the_small_ones(tmp_path: Path, wheels: Wheels) -> None:
    image = build(tmp_path / "cache", wheels)
    assert [layer.made_from for layer in image.layers] == [
        "base",
        "environment for Python 3.11",
        "big-1.0",
        "small-1.0, tiny-1.0",
    ]


def test_two_clean_caches_and_another_order_give_the_same_image(tmp_path: Path, wheels: Wheels) -> None:
    assert build(tmp_path / "one", wheels).record == build(tmp_path / "two", wheels[::-1]).record


_SCRIPT = """
import os, sys
from pathlib import Path
os.umask(int(sys.argv[3], 8))
user = int(sys.argv[4]) if len(sys.argv) > 4 else None
from tests.unit.image_support import make_base, locked_as
from reprobox.image.assemble import assemble
from reprobox.progress import Observer
cache = Path(sys.argv[1])
wheels = [(locked_as(p, p.name.split("-")[0]), p) for p in Path(sys.argv[2]).iterdir()]
if user is not None:
    # All is imported before the change of user, who may not be allowed to read these files.
    assemble(make_base(cache / "own"), wheels, cache=cache / "own", observer=Observer())
    os.setgid(user)
    os.setuid(user)
print(assemble(make_base(cache), wheels, cache=cache, observer=Observer()).record)
"""


def test_umask_time_zone_locale_and_hash_seed_do_not_reach_the_image(tmp_path: Path, wheels: Wheels) -> None:
    said = set()
    settings = [
        ("022", "UTC", "C.UTF-8", "0"),
        ("077", "Asia/Kathmandu", "C", "1"),
        ("000", "EST5EDT", "POSIX", "77"),
    ]
    for number, (umask, zone, language, seed) in enumerate(settings):
        env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "TZ": zone,
            "LC_ALL": language,
            "PYTHONHASHSEED": seed,
            **measured(),
        }
        arguments = [sys.executable, "-c", _SCRIPT, str(tmp_path / str(number)), str(wheels[0][1].parent), umask]
        said.add(subprocess.run(arguments, env=env, capture_output=True, check=True, text=True).stdout)
    assert len(said) == 1
    assert str(build(tmp_path / "here", wheels).record) in said.pop()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_the_user_does_not_reach_the_image(wheels: Wheels) -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        shutil.copytree(wheels[0][1].parent, place / "wheels")
        for path in (place / "wheels", *(place / "wheels").iterdir()):
            path.chmod(0o755)  # whatever the umask of the tests
        (place / "cache").mkdir()
        os.chown(place / "cache", 65534, 65534)
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2]), **measured()}
        arguments = [sys.executable, "-c", _SCRIPT, str(place / "cache"), str(place / "wheels"), "027", "65534"]
        said = subprocess.run(arguments, env=env, capture_output=True, check=True, text=True).stdout
        assert said == f"{build(place / 'here', wheels).record}\n"
        assert {path.stat().st_uid for path in (place / "cache" / "layers").glob("*.tar")} == {65534}


def test_the_digests_are_those_of_the_documents_and_layers(tmp_path: Path, wheels: Wheels) -> None:
    image = build(tmp_path, wheels)
    assert image.record.config_digest == "sha256:" + hashlib.sha256(image.config).hexdigest()
    assert image.record.manifest_digest == "sha256:" + hashlib.sha256(image.manifest).hexdigest()
    for layer in image.layers:
        content = (tmp_path / "layers" / f"{layer.diff_id[7:]}.tar").read_bytes()
        assert (layer.diff_id, layer.size) == ("sha256:" + hashlib.sha256(content).hexdigest(), len(content))
    config = json.loads(image.config)
    assert tuple(config["rootfs"]["diff_ids"]) == image.record.diff_ids
    assert config["created"] == "1970-01-01T00:00:00Z"
    assert config["config"] == {
        "Env": ["KEPT=yes", "LANG=C.UTF-8", "PATH=/opt/env/bin:/usr/bin:/bin", "VIRTUAL_ENV=/opt/env"],
        "Labels": {"org.reprobox.input": image.record.input_digest},
        "WorkingDir": "/work",
    }
    assert len(config["history"]) == len(image.layers)
    manifest = json.loads(image.manifest)
    assert [(layer["digest"], layer["size"]) for layer in manifest["layers"]] == [
        (layer.diff_id, layer.size) for layer in image.layers
    ]
    assert manifest["config"]["size"] == len(image.config)


def test_nothing_changed_is_known_at_once_and_without_the_wheels(tmp_path: Path, wheels: Wheels) -> None:
    base = make_base(tmp_path)
    first = assemble(base, wheels, cache=tmp_path, observer=Observer())
    for _, path in wheels:
        path.unlink()
    for path in (tmp_path / "layers").glob("*.tar"):
        path.unlink()
    again, called = calls(partial(assemble, base, wheels, cache=tmp_path, observer=Observer()))
    assert again.record == first.record
    # No more than a few small documents take, whatever the wheels hold.
    assert called < 2000


def test_one_changed_small_wheel_leaves_the_layers_below_alone(
    tmp_path: Path, wheels: Wheels, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = build(tmp_path, wheels).record
    changed = [*wheels[:2], make_wheel(tmp_path, name="tiny", version="2.0")]
    hashed: list[str] = []
    check = wheel_module.check_hash

    def counted(package: LockedPackage, path: Path) -> None:
        hashed.append(package.name)
        check(package, path)

    monkeypatch.setattr(environment, "check_hash", counted)
    after = build(tmp_path, changed).record
    assert after.diff_ids[:-1] == before.diff_ids[:-1]
    assert after.diff_ids[-1] != before.diff_ids[-1]
    assert after.input_digest != before.input_digest
    assert sorted(hashed) == ["small", "tiny"], "the large wheel was unpacked again"


def test_layers_stay_under_the_engines_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "LARGE_WHEEL", 0)
    monkeypatch.setattr(environment, "MAX_LAYERS", 6)
    many = [make_wheel(tmp_path, name=f"pkg{number}", files={f"m{number}.py": b""}) for number in range(9)]
    image = build(tmp_path / "cache", many)
    assert len(image.layers) == 6
    assert image.layers[-1].made_from.startswith("6 wheels: ")


def test_the_skeleton_is_a_virtual_environment_of_the_bases_python(tmp_path: Path) -> None:
    layer = build(tmp_path, []).layers[1]
    found = entries(tmp_path, layer)
    links = {name: member.linkname for name, member in found.items() if member.issym()}
    assert links == {
        "opt/env/bin/python": "/usr/bin/python3.11",
        "opt/env/bin/python3": "python",
        "opt/env/bin/python3.11": "python",
        "opt/env/lib64": "lib",
    }
    assert read(tmp_path, layer, "opt/env/pyvenv.cfg").startswith(b"home = /usr/bin\n")
    assert {"work", "reprobox/record", "reprobox/site"} <= found.keys()
    assert "opt/env/.wh..wh..opq" not in found


def test_an_environment_in_the_base_is_hidden(tmp_path: Path) -> None:
    image = assemble(make_base(tmp_path, occupied=True), [], cache=tmp_path, observer=Observer())
    assert "opt/env/.wh..wh..opq" in entries(tmp_path, image.layers[1])


def test_a_lock_that_names_a_project_twice_is_refused(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path)
    with pytest.raises(ImageError, match="names demo twice"):
        build(tmp_path, [wheel, wheel])


def test_a_refused_wheel_leaves_nothing_half_made(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, record={"demo.py": b"other"})
    with pytest.raises(ImageError):
        build(tmp_path / "cache", [wheel])
    kept = {path.name for path in (tmp_path / "cache" / "layers").iterdir() if path.is_file()}
    assert len(kept) == 2, "base and skeleton only"
    assert all(name.endswith(".tar") and not name.startswith(".") for name in kept)


def test_a_full_disk_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_base(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path))

    monkeypatch.setattr(environment, "make_layer", full)
    with pytest.raises(StorageError, match="No space left on device") as caught:
        assemble(base, [make_wheel(tmp_path)], cache=tmp_path, observer=Observer())
    assert "REPROBOX_CACHE" in (caught.value.hint or "")


def test_missing_room_is_said_before_anything_is_written(
    tmp_path: Path, wheels: Wheels, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_base(tmp_path)
    environment.skeleton(tmp_path, python="3.11", executable="/usr/bin/python3.11", occupied=False, damaged=frozenset())
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr("shutil.disk_usage", lambda _: types.SimpleNamespace(free=9 << 20))
    with pytest.raises(StorageError, match=r"[0-9.]+ MB are needed, 9\.4 MB are free") as caught:
        assemble(base, wheels, cache=tmp_path, observer=Observer())
    assert "reprobox cache prune" in (caught.value.hint or "")
    assert [path for path in sorted(tmp_path.rglob("*")) if path.is_file() and path.suffix != ".lock"] == [
        path for path in before if path.is_file() and path.suffix != ".lock"
    ]
    monkeypatch.undo()
    image = assemble(base, wheels, cache=tmp_path, observer=Observer())
    sizes = sum(layer.size for layer in image.layers[2:])
    monkeypatch.setattr("shutil.disk_usage", lambda _: types.SimpleNamespace(free=0))
    # What the store holds already needs no room.
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    assert assemble(base, wheels, cache=tmp_path, observer=Observer()).record == image.record
    assert sizes <= 10 << 20


_KILLED = """
import os, signal
from reprobox.image import environment

def counted(chunks, progress):
    for number, chunk in enumerate(chunks):
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        yield chunk

environment._counted = counted
"""


def test_after_a_process_was_killed_half_way_the_next_one_continues(tmp_path: Path, wheels: Wheels) -> None:
    cache = tmp_path / "cache"
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2]), **measured()}
    arguments = [sys.executable, "-c", _KILLED + _SCRIPT, str(cache), str(wheels[0][1].parent), "022"]
    assert subprocess.run(arguments, env=env, check=False, capture_output=True).returncode == -signal.SIGKILL
    assert list((cache / "layers").glob(".*.tmp")), "it was not killed while it wrote"
    assert build(cache, wheels).record == build(tmp_path / "clean", wheels).record
    assert not list((cache / "layers").glob(".*.tmp"))


def test_two_processes_at_once_make_one_image(tmp_path: Path, wheels: Wheels) -> None:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2]), **measured()}
    arguments = [sys.executable, "-c", _SCRIPT, str(tmp_path / "cache"), str(wheels[0][1].parent), "022"]
    both = [subprocess.Popen(arguments, env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = {process.communicate(timeout=600)[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert said == {f"{build(tmp_path / 'cache', wheels).record}\n"}
    assert not list((tmp_path / "cache" / "layers").glob(".*.tmp"))


def test_the_layers_bits_are_those_of_this_assembler_version(tmp_path: Path) -> None:
    # Other digests mean that every image changes: raise layout.ASSEMBLER_VERSION, then write the new ones here.
    points = b"[console_scripts]\ndemo = demo:main\n"
    wheel = make_wheel(tmp_path, files={"demo.py": b"", "demo-1.0.dist-info/entry_points.txt": points})
    image = build(tmp_path, [wheel])
    assert ASSEMBLER_VERSION == "1"
    assert [layer.diff_id[7:23] for layer in image.layers[1:]] == ["91b40d9098ede725", "0bccd0b9c991de43"]
    assert image.record.config_digest[7:23] == "12161069f1204777"
