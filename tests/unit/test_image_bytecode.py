from __future__ import annotations

import importlib.util
import json
import marshal
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import CodeType

import pytest

from reprobox.errors import ImageError
from reprobox.image import pycompile
from reprobox.image.assemble import Image, assemble, rebuild_layers
from reprobox.image.layers import layer_path
from reprobox.lock.model import LockedPackage
from reprobox.progress import Observer
from tests.unit.image_support import entries, make_base, make_wheel, read

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
SITE = f"opt/env/lib/python{PYTHON}/site-packages"
TAG = sys.implementation.cache_tag


class Compiler:
    """Compiles as a container does, with this Python, and remembers how many sources it got."""

    def __init__(self) -> None:
        self.compiled: list[str] = []

    def __call__(self, folder: Path) -> None:
        for listing in folder.glob("*.json"):
            self.compiled += [Path(path).name for path, _ in json.loads(listing.read_bytes())]
        program = Path(pycompile.__file__).read_text()
        subprocess.run([sys.executable, "-I", "-S", "-B", "-c", program, str(folder)], check=True)


def build(cache: Path, *wheels: tuple[LockedPackage, Path], compiler: object = None) -> Image:
    base = make_base(cache, python=PYTHON)
    return assemble(base, wheels, cache=cache, observer=Observer(), compiler=compiler or Compiler())  # type: ignore[arg-type]


def wheel(folder: Path, name: str, **files: bytes) -> tuple[LockedPackage, Path]:
    return make_wheel(folder, name=name, files={f"{name}/{file}.py": content for file, content in files.items()})


def test_every_module_has_bytecode_that_is_taken_unchecked(tmp_path: Path) -> None:
    source = b"def f():\n    return {'a', 'b'}\n"
    layer = build(tmp_path, wheel(tmp_path, "demo", __init__=source, other=b"")).layers[-1]
    files = {name for name, member in entries(tmp_path, layer).items() if member.isfile()}
    assert files == {f"{SITE}/demo/__pycache__/{module}.{TAG}.pyc" for module in ("__init__", "other")}
    content = read(tmp_path, layer, f"{SITE}/demo/__pycache__/__init__.{TAG}.pyc")
    # PEP 552: magic number, flags (bit 0: by hash; bit 1, check the source: not set), hash of the source.
    assert content[:16] == importlib.util.MAGIC_NUMBER + b"\1\0\0\0" + importlib.util.source_hash(source)
    code = marshal.loads(content[16:])
    assert isinstance(code, CodeType)
    assert code.co_filename == f"/{SITE}/demo/__init__.py"


def test_sources_are_compiled_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    build(tmp_path, wheel(tmp_path, "demo", __init__=f"open({str(mark)!r}, 'w')\n".encode()))
    assert not mark.exists()


def test_a_source_that_does_not_compile_is_left_to_python(tmp_path: Path) -> None:
    image = build(tmp_path, wheel(tmp_path, "demo", good=b"", bad=b"print 'Python 2'\n", nul=b"\0"))
    assert [Path(name).name for name in entries(tmp_path, image.layers[-1]) if "pyc" in Path(name).suffix] == [
        f"good.{TAG}.pyc"
    ]


def test_each_layer_of_wheels_has_its_bytecode_above_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reprobox.image.environment.LARGE_WHEEL", 2000)
    large = make_wheel(tmp_path, name="large", files={"large.py": b"x = 1\n", "noise": os.urandom(4000)})
    small, data = wheel(tmp_path, "small", m=b""), make_wheel(tmp_path, name="data", files={"d.txt": b""})
    image = build(tmp_path, small, large, data)
    assert [layer.made_from for layer in image.layers[2:]] == [
        "large-1.0",
        "bytecode of large-1.0",
        "data-1.0, small-1.0",
        "bytecode of data-1.0, small-1.0",
    ]
    plain = assemble(image.base, [small, large, data], cache=tmp_path, observer=Observer())
    assert plain.record.diff_ids == tuple(image.record.diff_ids[number] for number in (0, 1, 2, 4))
    assert plain.record.input_digest != image.record.input_digest


def test_only_a_changed_wheel_is_compiled_again(tmp_path: Path) -> None:
    one, two = wheel(tmp_path, "one", a=b"1"), wheel(tmp_path, "two", b=b"2")
    build(tmp_path, one, two)
    compiler = Compiler()
    image = build(tmp_path, one, wheel(tmp_path, "three", c=b"3"), compiler=compiler)
    assert compiler.compiled == ["c.py"]
    (tmp_path / "clean").mkdir()
    assert build(tmp_path / "clean", one, wheel(tmp_path, "three", c=b"3")).record == image.record


@pytest.mark.parametrize("wheels", [1, 2])
def test_damaged_bytecode_is_made_again(tmp_path: Path, wheels: int) -> None:
    image = build(tmp_path, *(wheel(tmp_path, f"w{number}", a=b"1") for number in range(wheels)))
    whole = {path: path.read_bytes() for path in (tmp_path / "layers").glob("*.tar")}
    for path, content in whole.items():
        path.write_bytes(content[:-1] + b"?")
    own = frozenset(layer.diff_id for layer in image.layers[1:])
    rebuild_layers(image, own, observer=Observer())
    assert all(layer_path(tmp_path, diff_id).read_bytes() == whole[layer_path(tmp_path, diff_id)] for diff_id in own)


@pytest.mark.parametrize("lie", ["nothing", "short", "negative", "link"])
def test_what_comes_out_of_the_container_is_not_trusted(tmp_path: Path, lie: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"12345")

    def lying(folder: Path) -> None:
        (listing,) = folder.glob("*.json")
        if lie == "nothing":
            return
        if lie == "link":
            listing.with_suffix(".pyc").symlink_to(secret)
        else:
            listing.with_suffix(".pyc").write_bytes(b"1234")
        listing.with_suffix(".sizes").write_text({"negative": "[-5]"}.get(lie, "[5]"))

    with pytest.raises(ImageError, match="did not compile what it was given"):
        build(tmp_path, wheel(tmp_path, "demo", a=b""), compiler=lying)
    assert not list(tmp_path.glob(".bytecode-*"))


def test_neither_hash_seed_nor_processors_nor_other_jobs_reach_the_bits(tmp_path: Path) -> None:
    library = Path(sysconfig.get_path("stdlib"))
    # ftplib shares a set of numbers as strings between two functions, or not, by what was compiled in the same process.
    jobs = {"a": ["ftplib", "argparse"], "b": ["imaplib", "ast", "typing"], "c": ["ftplib", "argparse"]}
    said = []
    one = {min(os.sched_getaffinity(0))}
    for number, (seed, names, processors) in enumerate((("0", "abc", one), ("1", "bca", None), ("77", "b", None))):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in names:
            sources = {module: (library / f"{module}.py").read_bytes() for module in jobs[name]}
            (folder / f"{name}.src").write_bytes(b"".join(sources.values()))
            listing = [[f"/opt/env/{module}.py", len(source)] for module, source in sources.items()]
            (folder / f"{name}.json").write_text(json.dumps(listing))
        program = Path(pycompile.__file__).read_text()
        cores = f"import os; os.sched_setaffinity(0, {processors})\n" if processors else ""
        command = [sys.executable, "-S", "-B", "-c", program.replace("import marshal\n", f"import marshal\n{cores}")]
        subprocess.run([*command, str(folder)], env={"PYTHONHASHSEED": seed}, check=True)
        said.append({name: (folder / f"{name}.pyc").read_bytes() for name in names})
    assert said[0] == said[1]
    assert said[0]["b"] == said[2]["b"]
    assert said[0]["a"] == said[0]["c"]
