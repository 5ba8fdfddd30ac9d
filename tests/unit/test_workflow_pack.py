"""A run is packed whole and unpacked into an empty cache, where a replay finds all of it; what is wrong is said."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import shutil
import stat
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from reprobox.bundle.reader import open_bundle
from reprobox.bundle.writer import of_bytes, write_bundle
from reprobox.cli.main import cli
from reprobox.errors import (
    BundleError,
    ImageError,
    IncomparableError,
    LockError,
    ManifestError,
    ReproboxError,
    StorageError,
    UsageError,
)
from reprobox.files import write_atomically
from reprobox.image.assemble import assemble
from reprobox.image.layers import layer_path
from reprobox.image.load import load
from reprobox.lock.download import fetch_wheels, wheel_path
from reprobox.lock.model import Lock
from reprobox.manifest.derived import first_and_last
from reprobox.manifest.model import EngineRecord, Manifest
from reprobox.manifest.store import read_manifest, write_manifest
from reprobox.progress import Observer
from reprobox.snapshot.archive import pack_archive, restore_code
from reprobox.snapshot.code import snapshot_code
from reprobox.snapshot.data import hash_data
from reprobox.trajectory.codec import encode_stream, moved_out, trajectory_digest
from reprobox.trajectory.model import Losses, Trajectory
from reprobox.workflow.environment import remake
from reprobox.workflow.inputs import recorded_code, recorded_data
from reprobox.workflow.pack import PackRequest, pack
from reprobox.workflow.unpack import load_manifest, load_run, unpack
from tests.unit.image_support import FakeStore, make_base, make_wheel
from tests.unit.test_manifest import EXAMPLE


class Engine(FakeStore):
    name = "docker"


@dataclass
class Packable:
    """A run as `reprobox run` leaves it, with the cache of the machine that made it."""

    manifest: Manifest
    path: Path
    cache: Path
    folder: Path

    def pack(self, target: str = "a.rbx", **request: Any) -> Path:
        wanted = PackRequest(manifest=self.path, target=self.folder / target, **request)
        return pack(wanted, cache=self.cache, observer=Observer()).path

    def unpack(self, bundle: Path, cache: str = "empty") -> tuple[Path, Path, Path | None]:
        found = unpack(bundle, cache=self.folder / cache, observer=Observer())
        return self.folder / cache, found.manifest, found.data


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packable:
    """A run in Docker on a Debian base, with data."""
    project, cache = tmp_path / "project", tmp_path / "cache"
    (project / "data" / "digits" / "more").mkdir(parents=True)
    (project / "data" / "digits" / "more" / "ä.txt").write_text("seven")
    (project / "data" / "digits" / "empty").write_text("")
    (project / "train.py").write_text("print('trained')\n")
    (tmp_path / "wheels").mkdir()
    package, wheel = make_wheel(tmp_path / "wheels")
    place = wheel_path(cache, package)
    place.parent.mkdir(parents=True)
    shutil.copyfile(wheel, place)
    (place.parent / "verified").write_text(str(place.stat().st_size))
    image = assemble(make_base(cache), [(package, place)], cache=cache, observer=Observer())
    snapshot = snapshot_code(project, exclude=["data"])
    packed = pack_archive(snapshot.tar)
    example = read_manifest(EXAMPLE)
    manifest = replace(
        example,
        image=image.record,
        lock=Lock(python="3.11", platform="x86_64-manylinux_2_36", packages=(package,)),
        data=hash_data(project, ["data/digits"], cache=cache),
        code=replace(snapshot.record, archive=replace(snapshot.record.archive, inline=True)),
        archive=base64.b64encode(packed).decode(),
    )
    path = project / "runs" / "digits-cnn-0007" / "manifest.yaml"
    write_manifest(manifest, path)
    # The base was kept when the run was made; no engine, registry or archive is asked in these tests.
    monkeypatch.setattr("reprobox.workflow.pack.open_engine", lambda _name: Engine())
    monkeypatch.setattr("reprobox.workflow.environment.base_of", lambda *_, **__: make_base(cache))
    return Packable(manifest, path, cache, tmp_path)


def without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was looked for elsewhere")

    monkeypatch.setattr("reprobox.workflow.environment.base_of", refuse)
    monkeypatch.setattr("reprobox.lock.download._fetch", refuse)


def names(bundle: Path) -> set[str]:
    with open_bundle(bundle) as opened:
        return set(opened.members)


def test_all_that_a_replay_needs_comes_out_in_an_empty_cache(run: Packable, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = run.pack()
    without_network(monkeypatch)
    cache, path, data = run.unpack(bundle)
    manifest = read_manifest(path)
    assert (manifest, load_manifest(bundle)) == (run.manifest, run.manifest)
    assert path.read_bytes() == run.path.read_bytes()
    restore_code(recorded_code(manifest, path), archive=manifest.code.archive, target=run.folder / "work")
    assert (run.folder / "work" / "train.py").read_text() == "print('trained')\n"
    assert data is not None
    assert recorded_data(manifest, path, data, cache=cache) == data
    engine = Engine()
    image = remake(engine, manifest, cache=cache, observer=Observer())
    assert load(image, engine, observer=Observer()) == run.manifest.image.config_digest  # type: ignore[union-attr]
    assert fetch_wheels(manifest.lock, requirements=None, cache=cache, observer=Observer())


def test_the_same_run_gives_the_same_bytes_from_another_cache_and_folder(
    run: Packable, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = run.pack()
    without_network(monkeypatch)
    cache, path, data = run.unpack(bundle)
    shutil.rmtree(run.path.parent.parent.parent)
    request = PackRequest(manifest=path, target=run.folder / "b.rbx", data_folder=data)
    again = pack(request, cache=cache, observer=Observer())
    assert again.path.read_bytes() == bundle.read_bytes()
    assert again.sha256 == hashlib.sha256(bundle.read_bytes()).hexdigest()


def test_what_is_in_it_can_be_chosen(run: Packable) -> None:
    always = {"manifest.yaml", "code.tar.xz", "losses.tsv", "requirements.lock", "wheels/demo-1.0-py3-none-any.whl"}
    data = {"data/data/digits/empty", "data/data/digits/more/ä.txt"}
    assert names(run.pack("least.rbx", base=False, data=False)) == always
    assert names(run.pack("data.rbx", base=False)) == always | data
    base, whole = names(run.pack("base.rbx", data=False)), names(run.pack("image.rbx", data=False, image=True))
    assert always < base < whole
    assert "image/base.json" in base and len(base - always) == 4
    assert {"image/oci-layout", "image/index.json", "image/manifest.json"} < whole


def test_a_whole_image_is_an_oci_layout_and_is_loaded_without_being_assembled(
    run: Packable, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = run.pack(image=True)
    with zipfile.ZipFile(bundle) as archive:
        (described,) = json.loads(archive.read("image/index.json"))["manifests"]
        document = archive.read("image/blobs/sha256/" + described["digest"][7:])
        for blob in (json.loads(document)["config"], *json.loads(document)["layers"]):
            content = archive.read("image/blobs/sha256/" + blob["digest"][7:])
            assert "sha256:" + hashlib.sha256(content).hexdigest() == blob["digest"]
    without_network(monkeypatch)
    monkeypatch.setattr("reprobox.workflow.environment.assemble", None)
    cache, _, _ = run.unpack(bundle)
    engine = Engine()
    image = remake(engine, run.manifest, cache=cache, observer=Observer())
    assert load(image, engine, observer=Observer()) == run.manifest.image.config_digest  # type: ignore[union-attr]


def test_a_local_run_needs_no_engine_and_has_no_image(run: Packable, monkeypatch: pytest.MonkeyPatch) -> None:
    local = replace(run.manifest, image=None, engine=EngineRecord(kind="local", version="1"))
    write_manifest(local, run.path)
    monkeypatch.setattr("reprobox.workflow.pack.open_engine", None)
    assert not [name for name in names(run.pack()) if name.startswith("image/")]
    with pytest.raises(UsageError, match="without an image"):
        run.pack("b.rbx", image=True)


def test_code_that_lies_beside_its_manifest_is_packed_and_found_again(run: Packable) -> None:
    code = base64.b64decode(run.manifest.archive or "")
    beside = replace(
        run.manifest,
        archive=None,
        code=replace(run.manifest.code, archive=replace(run.manifest.code.archive, inline=False)),
    )
    write_manifest(beside, run.path)
    with pytest.raises(IncomparableError, match="not beside it"):
        run.pack()
    (run.path.parent / "code.tar.xz").write_bytes(code)
    _, path, _ = run.unpack(run.pack())
    assert recorded_code(beside, path) == code
    (run.path.parent / "code.tar.xz").write_bytes(code[:-9])
    with pytest.raises(IncomparableError, match="code archive"):
        run.pack("b.rbx")


def test_data_that_changed_is_not_packed(run: Packable) -> None:
    (run.path.parent.parent.parent / "data" / "digits" / "empty").write_text("not any more")
    with pytest.raises(IncomparableError, match="not what was trained on"):
        run.pack()
    assert not list(run.folder.glob("*.rbx"))


def test_a_folder_without_files_comes_back(run: Packable) -> None:
    project = run.path.parent.parent.parent
    (project / "none").mkdir()
    data = hash_data(project, ["data/digits", "none"], cache=run.cache)
    spec = replace(run.manifest.spec, data=("data/digits", "none"))
    write_manifest(replace(run.manifest, data=data, spec=spec), run.path)
    cache, path, folder = run.unpack(run.pack())
    assert recorded_data(read_manifest(path), path, folder, cache=cache) == folder


def test_data_that_is_one_file_comes_back(run: Packable) -> None:
    project = run.path.parent.parent.parent
    (project / "one.bin").write_bytes(b"1")
    data = hash_data(project, ["one.bin"], cache=run.cache)
    spec = replace(run.manifest.spec, data=("one.bin",))
    write_manifest(replace(run.manifest, data=data, spec=spec), run.path)
    cache, path, folder = run.unpack(run.pack())
    assert folder is not None and (folder / "one.bin").read_bytes() == b"1"
    assert recorded_data(read_manifest(path), path, folder, cache=cache) == folder


def test_data_can_be_read_by_the_program_whatever_the_umask(run: Packable) -> None:
    bundle = run.pack()
    before = os.umask(0o077)
    try:
        _, _, data = run.unpack(bundle)
    finally:
        os.umask(before)
    assert data is not None
    for place in (data / "data" / "digits", *(data / "data" / "digits").rglob("*")):
        assert stat.S_IMODE(place.stat().st_mode) == (0o755 if place.is_dir() else 0o644)


def test_an_image_that_comes_out_differently_is_not_packed(run: Packable, monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(make_base(run.cache), env={"PATH": "/elsewhere"})
    monkeypatch.setattr("reprobox.workflow.environment.base_of", lambda *_, **__: other)
    with pytest.raises(ImageError, match="cannot be made again as it was recorded") as caught:
        run.pack()
    assert "--no-base" in (caught.value.hint or "")


def test_a_lost_layer_is_made_again_and_a_damaged_wheel_is_said(run: Packable) -> None:
    image = run.manifest.image
    assert image is not None
    layer_path(run.cache, image.diff_ids[-1]).unlink()
    assert names(run.pack(image=True)) >= {f"image/blobs/sha256/{digest[7:]}" for digest in image.diff_ids}
    wheel = wheel_path(run.cache, run.manifest.lock.packages[0])
    content = bytearray(wheel.read_bytes())
    content[50] ^= 1
    wheel.write_bytes(content)
    with pytest.raises(BundleError, match=r"demo-1\.0-py3-none-any\.whl changed while it was packed, or is damaged"):
        run.pack("b.rbx")


def test_nothing_is_overwritten_unasked(run: Packable) -> None:
    first = run.pack().read_bytes()
    with pytest.raises(UsageError, match="is there already") as caught:
        run.pack(data=False)
    assert "--force" in (caught.value.hint or "")
    assert (run.folder / "a.rbx").read_bytes() == first
    assert len(run.pack(data=False, force=True).read_bytes()) < len(first)
    with pytest.raises(UsageError, match="is a folder"):
        run.pack(".")
    with pytest.raises(UsageError, match="bundle already"):
        run.path.write_bytes(first)
        run.pack("c.rbx")


def test_room_is_looked_for_before_anything_is_written(run: Packable, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = run.pack()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))  # type: ignore[attr-defined]
    with pytest.raises(StorageError, match="not enough room"):
        run.pack("b.rbx")
    with pytest.raises(StorageError, match="not enough room"):
        run.unpack(bundle)
    assert not (run.folder / "b.rbx").exists() and not (run.folder / "empty").exists()


def repacked(bundle: Path, change: Callable[[dict[str, bytes]], None], **settings: str) -> Path:
    """Write the bundle anew with other members, as an able forger would."""
    with open_bundle(bundle) as opened:
        members = {name: b"".join(opened.chunks(name)) for name in opened.members}
        index = opened.index
    change(members)
    sources = [of_bytes(name, content) for name, content in members.items()]
    named = {"name": index.name, "manifest": index.manifest, **settings}
    return write_bundle(bundle, sources=sources, progress=lambda *_: None, **named).path


@pytest.mark.parametrize(
    ("name", "content", "error", "match"),
    [
        ("wheels/demo-1.0-py3-none-any.whl", b"other", LockError, "does not match its hash"),
        ("wheels/demo-1.0-py3-none-any.whl", None, BundleError, "holds no wheels/demo"),
        ("manifest.yaml", None, BundleError, r"holds no manifest\.yaml"),
        ("manifest.yaml", b"a: 1\n", ManifestError, "not a manifest"),
        ("code.tar.xz", None, BundleError, r"holds no code\.tar\.xz"),
        ("image/base.json", b"{}", ImageError, "9 mistakes"),
        ("data/elsewhere/file", b"", BundleError, "belongs to no data of its manifest"),
        ("data/data/digits-too", b"", BundleError, "belongs to no data of its manifest"),
    ],
)
def test_members_that_are_not_what_the_manifest_names_are_refused(
    name: str, content: bytes | None, error: type[ReproboxError], match: str, run: Packable
) -> None:
    def change(members: dict[str, bytes]) -> None:
        members.pop(name, None)
        if content is not None:
            members[name] = content

    with pytest.raises(error, match=match):
        run.unpack(repacked(run.pack(), change))
    assert not list((run.folder / "empty" / "bundles").glob("*/manifest.yaml"))


def test_a_layer_that_is_another_and_a_config_that_is_another_are_refused(run: Packable) -> None:
    image = run.manifest.image
    assert image is not None
    for digest, match in ((image.diff_ids[0], "not what its name says"), (image.config_digest, "not those that")):
        forged = repacked(
            run.pack(f"{digest[7:15]}.rbx"),
            lambda members, digest=digest: members.update({f"image/blobs/sha256/{digest[7:]}": b"{}"}),  # type: ignore[misc]
        )
        with pytest.raises(ImageError, match=match):
            run.unpack(forged)


def test_another_manifest_than_the_index_names_is_refused(run: Packable) -> None:
    forged = repacked(run.pack(), lambda _: None, manifest="sha256:" + "0" * 64)
    with pytest.raises(BundleError, match="not the one that it was packed with"):
        load_manifest(forged)


def test_changed_data_is_found_by_the_replay(run: Packable) -> None:
    cache, path, data = run.unpack(
        repacked(run.pack(), lambda members: members.update({"data/data/digits/empty": b"x"}))
    )
    with pytest.raises(IncomparableError, match="not what was trained on"):
        recorded_data(run.manifest, path, data, cache=cache)


def test_a_second_replay_unpacks_nothing_but_brings_back_what_was_lost(run: Packable) -> None:
    bundle = run.pack()
    cache, path, _ = run.unpack(bundle)
    wheel = wheel_path(cache, run.manifest.lock.packages[0])
    made = path.stat().st_mtime_ns, wheel.stat().st_mtime_ns
    run.unpack(bundle)
    assert (path.stat().st_mtime_ns, wheel.stat().st_mtime_ns) == made
    wheel.unlink()
    run.unpack(bundle)
    assert wheel.is_file()


def test_the_command_packs_shows_and_compares(run: Packable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REPROBOX_CACHE", str(run.cache))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, ["pack", str(run.path.parent), "--json"], catch_exceptions=False)
    result = json.loads(done.stdout)
    bundle = tmp_path / "digits-cnn-0007.rbx"
    assert result.keys() == {"file", "sha256", "size", "members"}
    assert (result["file"], result["size"]) == (bundle.name, bundle.stat().st_size)
    assert {member["path"] for member in result["members"]} == names(bundle)
    shown = CliRunner().invoke(cli, ["show", str(bundle), "--json"], catch_exceptions=False)
    assert json.loads(shown.stdout)["code"]["tree"] == run.manifest.code.tree
    compared = CliRunner().invoke(cli, ["compare", str(bundle), str(run.path), "--json"], catch_exceptions=False)
    assert json.loads(compared.stdout)["verdict"] == "EXACT"


@pytest.mark.parametrize("flags", [["--no-data", "--data", "."], ["--image", "--no-base"]])
def test_flags_that_exclude_each_other_are_refused(flags: list[str], run: Packable) -> None:
    with pytest.raises(UsageError, match="exclude"):
        CliRunner().invoke(cli, ["pack", str(run.path), *flags], catch_exceptions=False, standalone_mode=False)


def test_what_of_a_record_lies_beside_its_manifest_travels_with_it(
    run: Packable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reprobox.trajectory.codec.MAX_INLINE", 200_000)
    noise = random.Random(1)
    losses = Losses()
    for step in range(60_000):
        losses.append(step, "float32", noise.randbytes(4))
    stream = Trajectory(losses=losses, optimizer_steps=0)
    streams, files = moved_out([encode_stream(stream)])
    result = replace(
        run.manifest.result,
        steps=len(losses),
        optimizer_steps=0,
        metrics={},
        trajectory=trajectory_digest((stream,)),
        weights=None,
        **dict(zip(("first_loss", "final_loss"), first_and_last((stream,)), strict=True)),
    )
    spec = replace(run.manifest.spec, trajectory=replace(run.manifest.spec.trajectory, digest_every=0))
    write_manifest(replace(run.manifest, streams=streams, result=result, spec=spec), run.path)
    for sha256, content in files.items():
        write_atomically(run.path.parent / "trajectory" / sha256, content)
    bundle = run.pack()
    assert load_run(bundle).streams == load_run(run.path).streams == (stream,)
    _, path, _ = run.unpack(bundle)
    assert load_run(path).streams == (stream,)
    for name in files:
        (path.parent / "trajectory" / name).write_bytes(b"other")
    with pytest.raises(ManifestError, match="is not the file that the manifest names"):
        load_run(path)
    shutil.rmtree(path.parent / "trajectory")
    with pytest.raises(ManifestError, match="which is not here: trajectory/"):
        load_run(path)
