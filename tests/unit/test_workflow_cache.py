from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from reprobox.cache import hold, in_use, in_use_file
from reprobox.cli.main import cli
from reprobox.errors import StorageError, UsageError
from reprobox.image.assemble import assemble
from reprobox.image.layers import layer_path
from reprobox.lock.model import Lock
from reprobox.lock.store import write_lock
from reprobox.progress import Observer
from reprobox.workflow import cache as store
from reprobox.workflow.cache import inventory, prune, unneeded, used_before, verify
from tests.unit.image_support import make_base, make_wheel

ASSET = Path(__file__).parent.parent / "assets" / "manifest-1.yaml"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with a base, an image of one wheel, the lock that it is from, and a wheel that nothing speaks of."""
    cache, source = tmp_path / "cache", tmp_path / "source"
    source.mkdir()
    package, path = make_wheel(source)
    base = make_base(cache)
    record = {
        "suite": "bookworm",
        "diff_id": base.layers[0].diff_id,
        "size": 1,
        "packages": [],
        "architecture": "amd64",
    }
    (cache / "bases").mkdir()
    (cache / "bases" / "debian-root-0.json").write_text(json.dumps(record))
    assemble(base, [(package, path)], cache=cache, observer=Observer())
    write_lock(cache, "key", Lock(python="3.11", platform="x86_64-manylinux_2_36", packages=(package,)))
    for kept in (package, make_wheel(source, name="stray")[0]):
        folder = cache / "wheels" / kept.sha256
        folder.mkdir(parents=True)
        (folder / kept.file).write_bytes((source / kept.file).read_bytes())
        (folder / "verified").write_text(str((folder / kept.file).stat().st_size))
    return cache


def names(items: object) -> set[str]:
    return {item.name for item in items}  # type: ignore[attr-defined]


def test_everything_kept_is_listed_with_its_size(cache: Path) -> None:
    items = inventory(cache)
    assert {(item.kind, item.name) for item in items} == {
        ("base", "debian bookworm"),
        ("layer", "environment for Python 3.11"),
        ("layer", "demo-1.0"),
        ("wheel", "demo-1.0-py3-none-any.whl"),
        ("wheel", "stray-1.0-py3-none-any.whl"),
    }
    assert all(item.size == item.path.stat().st_size for item in items)


def test_an_environment_and_a_bundle_are_named_by_what_lies_in_them(cache: Path) -> None:
    digests = ["0123456789abcdef", "1123456789abcdef", "2123456789abcdef", "3123456789abcdef"]
    contents: list[list[str]] = [["torch-2.13.0+cpu", "absl_py-2.1.0", "zipp-3.0"], ["six-1.17.0"], []]
    for digest, installed in zip(digests, contents, strict=False):
        for info in installed:
            (cache / "venvs" / digest / "lib" / "python3.11" / "site-packages" / f"{info}.dist-info").mkdir(
                parents=True
            )
        (cache / "venvs" / digest / "lib" / "python3.11" / "site-packages").mkdir(parents=True, exist_ok=True)
    (cache / "venvs" / digests[3]).mkdir()
    for digest, manifest in (("a" * 64, ASSET.read_bytes()), ("b" * 64, b"damaged")):
        (cache / "bundles" / digest).mkdir(parents=True)
        (cache / "bundles" / digest / "manifest.yaml").write_bytes(manifest)
    items = inventory(cache)
    assert {(item.kind, item.name) for item in items if item.kind in ("venv", "bundle")} == {
        ("venv", "Python 3.11, 3 packages, torch 2.13.0+cpu"),
        ("venv", "Python 3.11, 1 package, six 1.17.0"),
        ("venv", "Python 3.11, 0 packages"),
        ("venv", digests[3]),
        ("bundle", "digits-cnn-0007 (aaaaaaaaaaaa)"),
        ("bundle", "b" * 64),
    }


def test_unneeded_is_what_no_lock_and_no_image_speaks_of(cache: Path) -> None:
    assert names(unneeded(cache, inventory(cache))) == {"stray-1.0-py3-none-any.whl"}
    for path in (cache / "images").glob("*.json"):
        path.unlink()
    assert {"demo-1.0", "environment for Python 3.11"} <= names(unneeded(cache, inventory(cache)))


def test_what_was_not_used_for_long_is_told_from_the_rest(cache: Path) -> None:
    items = inventory(cache)
    old = next(item for item in items if item.kind == "wheel")
    os.utime(old.path, (0, 1000))
    assert [item.path for item in used_before(inventory(cache), time.time() - 3600)] == [old.path]
    assert inventory(cache)[-1].path == old.path


def test_what_a_killed_process_left_is_found_and_removed(cache: Path) -> None:
    (cache / "layers" / ".abc.1.tmp").write_bytes(b"half")
    (cache / ".bytecode-x").mkdir()
    (cache / ".bytecode-x" / "a.src").write_bytes(b"half")
    gone, _ = prune(cache, lambda items: [item for item in items if item.kind == "leftover"])
    assert names(gone) == {"layers/.abc.1.tmp", ".bytecode-x"}
    assert not (cache / ".bytecode-x").exists()


def test_what_was_pruned_is_made_again(cache: Path, tmp_path: Path) -> None:
    before = {path.name for path in (cache / "layers").glob("*.tar")}
    prune(cache, lambda items: items)
    assert inventory(cache) == ()
    package, path = make_wheel(tmp_path)
    (cache / "images").rename(tmp_path / "images")
    assemble(make_base(cache), [(package, path)], cache=cache, observer=Observer())
    assert {path.name for path in (cache / "layers").glob("*.tar")} == before


def test_nothing_is_pruned_while_somebody_prepares(cache: Path) -> None:
    began, end = threading.Event(), threading.Event()

    def work() -> None:
        with in_use(cache):
            began.set()
            end.wait()

    thread = threading.Thread(target=work)
    thread.start()
    began.wait()
    try:
        with pytest.raises(StorageError, match="the cache is in use"):
            prune(cache, lambda items: items)
    finally:
        end.set()
        thread.join()
    assert len(prune(cache, lambda items: items)[0]) == 5


def test_an_environment_that_a_program_runs_in_is_spared(cache: Path) -> None:
    venv = cache / "venvs" / "0123456789abcdef"
    venv.mkdir(parents=True)
    (venv / "reprobox-complete").write_text("")
    code = (
        "import sys, pathlib; from reprobox.cache import hold; hold(pathlib.Path(sys.argv[1])); print(1, flush=True);"
        "sys.stdin.read()"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", code, str(in_use_file(venv))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert program.stdout is not None
    program.stdout.readline()
    gone, spared = prune(cache, lambda items: [item for item in items if item.kind == "venv"])
    assert (names(gone), names(spared)) == (set(), {"0123456789abcdef"})
    program.communicate()
    gone, spared = prune(cache, lambda items: [item for item in items if item.kind == "venv"])
    assert (names(gone), names(spared)) == ({"0123456789abcdef"}, set())


def test_holding_twice_is_holding_once(tmp_path: Path) -> None:
    hold(tmp_path / "x")
    hold(tmp_path / "x")
    assert store.is_held(tmp_path / "x")


def test_verify_removes_what_is_damaged_and_nothing_else(cache: Path) -> None:
    layer = next(item for item in inventory(cache) if item.name == "demo-1.0")
    wheel = next(item for item in inventory(cache) if item.name.startswith("demo") and item.kind == "wheel")
    for item in (layer, wheel):
        content = item.path.read_bytes()
        item.path.write_bytes(content[:300] + b"?" + content[301:])
    checked, damaged = verify(cache, observer=Observer())
    assert (checked, names(damaged)) == (5, {layer.name, wheel.name})
    assert not layer_path(cache, layer.path.stem).exists()
    assert not (wheel.path.parent / "verified").exists(), "the wheel would count as verified"
    assert verify(cache, observer=Observer()) == (3, ())


def command(cache: Path, *arguments: str) -> Result:
    return CliRunner().invoke(
        cli, ["cache", *arguments], env={"REPROBOX_CACHE": str(cache)}, standalone_mode=False, catch_exceptions=True
    )


def test_the_command_speaks_json(cache: Path) -> None:
    listed = json.loads(command(cache, "list", "--json").stdout)
    assert {item["kind"] for item in listed["items"]} == {"base", "layer", "wheel"}
    sizes = json.loads(command(cache, "size", "--json").stdout)
    assert sizes["size"] == listed["size"] == sum(item["size"] for item in listed["items"])
    assert sizes["kinds"]["wheel"]["count"] == 2
    looked = json.loads(command(cache, "prune", "--unused", "--dry-run", "--json").stdout)
    assert [item["name"] for item in looked["removed"]["items"]] == ["stray-1.0-py3-none-any.whl"]
    assert len(inventory(cache)) == 5
    removed = json.loads(command(cache, "prune", "--unused", "--yes", "--json").stdout)
    assert removed["removed"] == looked["removed"]
    assert len(inventory(cache)) == 4
    assert json.loads(command(cache, "verify", "--json").stdout) == {"checked": 4, "damaged": {"size": 0, "items": []}}


@pytest.mark.parametrize("arguments", [["prune"], ["prune", "--all"], ["prune", "--older-than", "soon"]])
def test_nothing_goes_by_a_slip(cache: Path, arguments: list[str]) -> None:
    failed = command(cache, *arguments)
    assert failed.exception is not None
    assert isinstance(failed.exception, UsageError) or "is not an age" in str(failed.exception)
    assert len(inventory(cache)) == 5


def test_an_empty_cache_is_no_error(tmp_path: Path) -> None:
    for arguments in (["list"], ["size"], ["verify"], ["prune", "--all", "--yes"]):
        assert command(tmp_path / "none", *arguments).exception is None


def test_the_layers_of_an_image_that_a_bundle_brought_are_needed(cache: Path) -> None:
    for path in (cache / "images").glob("*.json"):
        path.unlink()
    layers = [{"digest": f"sha256:{item.path.stem}"} for item in inventory(cache) if item.kind == "layer"]
    kept = cache / "images" / "kept" / "0123"
    kept.mkdir(parents=True)
    (kept / "manifest.json").write_text(json.dumps({"layers": layers}))
    assert names(unneeded(cache, inventory(cache))) == {"stray-1.0-py3-none-any.whl"}


def test_what_a_bundle_brought_goes_unless_a_program_reads_it(cache: Path) -> None:
    read, idle = (cache / "bundles" / name for name in ("aa" * 32, "bb" * 32))
    for folder in (read, idle):
        (folder / "data").mkdir(parents=True)
        (folder / "data" / "numbers").write_text("0.1")
    hold(in_use_file(read))
    found = [item for item in inventory(cache) if item.kind == "bundle"]
    assert [item.size for item in found] == [3, 3]
    gone, spared = prune(cache, lambda items: unneeded(cache, [item for item in items if item.kind == "bundle"]))
    assert ([item.path for item in gone], [item.path for item in spared]) == ([idle], [read])
    assert read.is_dir()
    assert not idle.exists()
