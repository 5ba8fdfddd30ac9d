"""A run goes to a registry and comes back; engine and registry are played by this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from reprobox.errors import ImageError, LockError, RegistryError, UsageError
from reprobox.image.assemble import Image, assemble
from reprobox.image.load import load
from reprobox.manifest.artifact import ARTIFACT_TYPE
from reprobox.manifest.model import Manifest
from reprobox.manifest.store import read_manifest, write_manifest
from reprobox.progress import Observer
from reprobox.workflow import fetch as fetch_module
from reprobox.workflow import push as push_module
from reprobox.workflow.fetch import fetched_run
from reprobox.workflow.push import PushReport, push
from tests.unit.image_support import FakeStore, make_base, make_wheel
from tests.unit.registry_support import LOGIN, Registry, serving, sha256

EXAMPLE = Path(__file__).parents[1] / "assets" / "manifest-1.yaml"


@dataclass
class Bench:
    """A run's folder, the image it was made with, an engine and a registry."""

    registry: Registry
    store: FakeStore
    image: Image
    folder: Path

    def run(self, number: int = 1, *, code_inside: bool = True) -> Path:
        manifest = replace(read_manifest(EXAMPLE), image=self.image.record)
        manifest = replace(manifest, run=replace(manifest.run, id=f"digits-cnn-{number:04d}"))
        path = self.folder / manifest.run.id / "manifest.yaml"
        path.parent.mkdir()
        if not code_inside:
            record = replace(manifest.code.archive, inline=False)
            manifest = replace(manifest, archive=None, code=replace(manifest.code, archive=record))
        write_manifest(manifest, path)
        return path

    def push(self, path: Path, reference: str | None = None) -> PushReport:
        target = reference or self.registry.reference()
        return push(path, target, insecure=False, cache=self.folder, observer=Observer())

    def fetch(self, reference: str) -> tuple[Manifest, list[str]]:
        with fetched_run(reference, insecure=False, cache=self.folder / "there", observer=Observer()) as run:
            assert run.image(self.image.record, self.store).record == self.image.record
            return read_manifest(run.manifest), sorted(path.name for path in run.manifest.parent.iterdir())


@pytest.fixture(params=[True, False], ids=["referrers", "tag-schema"])
def bench(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    (tmp_path / "wheels").mkdir()
    image = assemble(make_base(tmp_path), [make_wheel(tmp_path / "wheels")], cache=tmp_path, observer=Observer())
    store = FakeStore()
    monkeypatch.setattr(push_module, "open_engine", lambda name: store)
    monkeypatch.setattr(push_module, "remake", lambda *arguments, **options: image)
    monkeypatch.setattr(push_module, "docker_login", lambda host: LOGIN)
    monkeypatch.setattr(fetch_module, "docker_login", lambda host: LOGIN)
    with serving(Registry(referrers_api=request.param, auth="token")) as registry:
        yield Bench(registry, store, image, tmp_path)


def test_a_run_comes_back_by_its_digest_by_its_tag_and_by_its_images_digest(bench: Bench) -> None:
    path = bench.run()
    report = bench.push(path)
    assert report.image == f"{bench.registry.host}/me/paper@{bench.image.record.manifest_digest}"
    for reference in (report.run, f"oci://{report.reference}", f"oci://{report.image}"):
        assert bench.fetch(reference) == (read_manifest(path), ["manifest.yaml"])


def test_the_manifest_is_attached_as_an_artifact_and_twice_is_once(bench: Bench) -> None:
    path = bench.run()
    assert bench.push(path).run == bench.push(path).run
    digests = {digest for name, digest in bench.registry.manifests if digest.startswith("sha256:")}
    documents = [json.loads(bench.registry.manifests["me/paper", digest][1]) for digest in digests]
    (artifact,) = [document for document in documents if document.get("artifactType") == ARTIFACT_TYPE]
    assert artifact["subject"]["digest"] == bench.image.record.manifest_digest
    assert artifact["layers"][0]["digest"] == sha256(path.read_bytes())
    assert artifact["annotations"]["org.reprobox.run"] == "digits-cnn-0001"


def test_of_several_runs_with_one_image_one_must_be_named(bench: Bench) -> None:
    first, second = bench.push(bench.run(1)), bench.push(bench.run(2))
    with pytest.raises(UsageError, match="2 runs are attached") as caught:
        bench.fetch(f"oci://{first.reference}")
    text = "\n".join(caught.value.details)
    assert first.run in text
    assert second.run in text
    assert "digits-cnn-0002" in text
    assert bench.fetch(second.run)[0].run.id == "digits-cnn-0002"


def test_code_that_is_not_inside_travels_beside(bench: Bench) -> None:
    path = bench.run(code_inside=False)
    with pytest.raises(UsageError, match="code is not inside"):
        bench.push(path)
    path.with_name("code.tar.xz").write_bytes(b"packed code")
    assert bench.fetch(bench.push(path).run)[1] == ["code.tar.xz", "manifest.yaml"]


def test_a_run_without_an_image_cannot_be_pushed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    local = replace(read_manifest(EXAMPLE), image=None)
    local = replace(local, engine=replace(local.engine, kind="local"))
    monkeypatch.setattr(push_module, "read_manifest", lambda path: local)
    with pytest.raises(UsageError, match="has no image"):
        bench.push(EXAMPLE)


def test_a_record_that_lies_beside_its_manifest_is_not_pushed_in_part(bench: Bench) -> None:
    path = bench.run()
    manifest = read_manifest(path)
    streams = (replace(manifest.streams[0], losses="sha256:" + "1" * 64),)
    write_manifest(replace(manifest, streams=streams), path)
    with pytest.raises(UsageError, match="too long for a registry") as caught:
        bench.push(path)
    assert caught.value.hint is not None and "reprobox pack" in caught.value.hint


def test_a_digest_is_not_ours_to_choose(bench: Bench) -> None:
    with pytest.raises(UsageError, match="cannot be chosen"):
        bench.push(bench.run(), bench.registry.reference("me/paper@sha256:" + "a" * 64))


@pytest.mark.parametrize("in_engine", [True, False])
def test_an_image_that_cannot_be_made_again_is_taken_from_the_engine(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, in_engine: bool
) -> None:
    def gone(*arguments: object, **options: object) -> Image:
        raise LockError("demo is offered nowhere")

    monkeypatch.setattr(push_module, "remake", gone)
    if in_engine:
        load(bench.image, bench.store, observer=Observer())
        monkeypatch.setattr(push_module, "image_in_engine", lambda *arguments, **options: bench.image)
        assert bench.fetch(bench.push(bench.run()).run)[0].image == bench.image.record
        return
    with pytest.raises(ImageError, match="cannot be made here any more") as caught:
        bench.push(bench.run())
    assert "demo is offered nowhere" in caught.value.details


def test_an_image_without_a_run_is_said_to_have_none(bench: Bench) -> None:
    report = bench.push(bench.run())
    for key in [key for key in bench.registry.manifests if key[1] not in (bench.image.record.manifest_digest, "v1")]:
        del bench.registry.manifests[key]
    with pytest.raises(RegistryError, match="no run of reprobox is attached"):
        bench.fetch(f"oci://{report.image}")


def test_a_run_that_was_deleted_is_said_to_be_gone(bench: Bench) -> None:
    report = bench.push(bench.run())
    bench.registry.manifests.clear()
    with pytest.raises(RegistryError, match="does not have") as caught:
        bench.fetch(report.run)
    assert "push the run again" in (caught.value.hint or "")


def test_a_manifest_attached_to_another_image_is_refused(bench: Bench) -> None:
    report = bench.push(bench.run())
    digest = report.run.rpartition("@")[2]
    kind, content = bench.registry.manifests["me/paper", digest]
    document = json.loads(content)
    document["subject"]["digest"] = "sha256:" + "1" * 64
    forged = json.dumps(document).encode()
    bench.registry.manifests["me/paper", sha256(forged)] = (kind, forged)
    with pytest.raises(RegistryError, match="another image than its manifest names"):
        bench.fetch(f"oci://{bench.registry.host}/me/paper@{sha256(forged)}")
