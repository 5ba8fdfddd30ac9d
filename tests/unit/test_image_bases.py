from __future__ import annotations

import gzip
import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from reprobox.errors import ImageError, SpecError
from reprobox.image import bases, debian
from reprobox.image.bases import Base, Wishes, resolve_base
from reprobox.image.catalogue import automatic, entry
from reprobox.image.debian import DebianRoot, Recipe
from reprobox.image.dpkg import Installed
from reprobox.image.interface import StoredImage
from reprobox.image.layers import Layer
from reprobox.image.model import BaseRecord
from reprobox.progress import Observer
from tests.unit.image_support import PYTHON_ANSWER, FakeStore, Listener, sha256, tar_of

SLIM = "python:3.11-slim"
DIGEST = "sha256:" + "d" * 64


def offered(
    store: FakeStore, *, repo_digests: tuple[str, ...] = (f"python@{DIGEST}",), packed: bool = False
) -> StoredImage:
    """Make an image of one layer that `store` can describe, run and export, without having it yet."""
    layer = tar_of({"usr/bin/python3": b""})
    image = StoredImage(
        id="sha256:" + "a" * 64,
        diff_ids=(sha256(layer),),
        config={"Env": ["PATH=/usr/local/bin:/usr/bin", "PYTHON_VERSION=3.11.9"]},
        architecture="amd64",
        os="linux",
        repo_digests=repo_digests,
    )
    blob = gzip.compress(layer[:700]) + gzip.compress(layer[700:]) if packed else layer
    store.exports[image.id] = tar_of({f"blobs/sha256/{sha256(blob)[7:]}": blob, "manifest.json": b"[]"})
    store.answers[image.id] = json.dumps(PYTHON_ANSWER)
    return image


DEBS = ("libc6_2.36-9+deb12u10_amd64.deb=" + "0" * 64,)


@pytest.fixture
def debian_built(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Recipe, str | None]]:
    """Stand in for mmdebstrap; return the recipes and digests that were wanted of it."""
    asked: list[tuple[Recipe, str | None]] = []

    def root(recipe: Recipe, *, wanted: str | None = None, **_: object) -> tuple[DebianRoot, bool]:
        asked.append((recipe, wanted))
        layer = Layer(diff_id="sha256:" + "b" * 64, size=1024, made_from="base")
        python = "3.13.5-1" if recipe.suite == "trixie" else "3.11.2-1+b1"
        packages = ("libc6=2.36-9+deb12u10", f"python3={python}")
        installed = Installed(packages=packages, architecture="amd64", debs=DEBS)
        return DebianRoot(suite=recipe.suite, layer=layer, installed=installed), False

    monkeypatch.setattr(debian, "debian_root", root)
    return asked


def resolved(
    base: str, store: FakeStore, cache: Path, pinned: BaseRecord | None = None, *, wishes: Wishes | None = None
) -> Base:
    return resolve_base(base, store, cache=cache, observer=Observer(), pinned=pinned, wishes=wishes)


def test_the_catalogue_names_what_auto_tries() -> None:
    assert [item.reference for item in automatic()] == [SLIM, "bookworm"]
    assert "python3" in entry("debian").packages


@pytest.mark.usefixtures("debian_built")
def test_debian_knows_its_python_and_glibc_from_its_packages(tmp_path: Path) -> None:
    base = resolved("debian:trixie", FakeStore(), tmp_path)
    assert (base.python, base.python_executable, base.glibc) == ("3.13", "/usr/bin/python3.13", (2, 36))
    assert (base.record.kind, base.record.reference, base.record.digest) == ("debian", "trixie", "sha256:" + "b" * 64)
    assert base.record.packages[0].startswith("libc6=")
    assert base.record.debs == DEBS


def test_a_registry_image_is_recorded_by_its_digest(tmp_path: Path) -> None:
    store = FakeStore()
    store.registry[SLIM] = offered(store)
    base = resolved(SLIM, store, tmp_path)
    assert base.record == BaseRecord(kind="registry", reference=f"{SLIM}@{DIGEST}", digest=DIGEST)
    assert base.env["PYTHON_VERSION"] == "3.11.9"
    assert (base.python, base.python_executable) == ("3.11", "/usr/local/bin/python3.11")


def test_an_image_that_is_there_is_neither_pulled_nor_asked_twice(tmp_path: Path) -> None:
    store = FakeStore()
    store.keep(offered(store), SLIM)
    first = resolved(SLIM, store, tmp_path)
    store.exports.clear()
    assert resolved(SLIM, store, tmp_path) == first
    assert (store.pulls, store.questions) == ([], 1)


def test_a_replay_pulls_the_digest_whatever_the_tag_says_today(tmp_path: Path) -> None:
    store = FakeStore()
    image = offered(store)
    for reference in ("python:3.11-slim", "host:5000/group/python:3.11-slim", "host:5000/python"):
        name = reference.removesuffix(":3.11-slim")
        store.registry[f"{name}@{DIGEST}"] = image
        pinned = BaseRecord(kind="registry", reference=f"{reference}@{DIGEST}", digest=DIGEST)
        assert resolved("debian", store, tmp_path, pinned).record == pinned
        assert store.pulls[-1] == f"{name}@{DIGEST}"


@pytest.mark.parametrize("names", [("mirror.example/python", "python"), ("docker.io/library/python", "aaa/python")])
def test_of_several_digests_the_one_of_the_named_repository_counts(tmp_path: Path, names: tuple[str, str]) -> None:
    store = FakeStore()
    other = "sha256:" + "e" * 64
    ours = next(name for name in names if name in ("python", "docker.io/library/python"))
    digests = tuple(f"{name}@{DIGEST if name == ours else other}" for name in names)
    store.registry[SLIM] = offered(store, repo_digests=digests)
    assert resolved(SLIM, store, tmp_path).record.digest == DIGEST


def test_an_image_built_here_cannot_pass_for_a_registrys(tmp_path: Path) -> None:
    store = FakeStore()
    store.registry["mine:1"] = offered(store, repo_digests=())
    with pytest.raises(ImageError, match="no digest that a registry knows") as caught:
        resolved("mine:1", store, tmp_path)
    assert "local:mine:1" in (caught.value.hint or "")


def test_a_name_that_no_registry_knows_is_asked_of_the_registry_again(tmp_path: Path) -> None:
    store = FakeStore()
    image = offered(store)
    store.keep(image, SLIM)
    store.known = False
    with pytest.raises(ImageError, match="cannot pull"):
        resolved(SLIM, store, tmp_path)
    store.known, listener = None, Listener()
    base = resolve_base(SLIM, store, cache=tmp_path, observer=listener)
    assert base.record.digest == DIGEST, "believed where no registry answers"
    assert "no registry answered" in listener.warnings[0] and f"local:{SLIM}" in listener.warnings[0]
    store.known = True
    assert resolved(SLIM, store, tmp_path).record.digest == DIGEST
    store.known, store.asked = None, []
    assert resolved(SLIM, store, tmp_path).record.digest == DIGEST
    assert store.asked == [], "a registry that knew it is not asked again"


def test_auto_takes_the_slim_python_where_a_registry_answers(tmp_path: Path) -> None:
    store = FakeStore()
    store.registry[SLIM] = offered(store)
    assert resolved("auto", store, tmp_path).record.kind == "registry"


def test_auto_falls_back_to_debian_says_so_and_does_not_ask_again(
    tmp_path: Path, debian_built: list[tuple[Recipe, str | None]]
) -> None:
    store, listener = FakeStore(), Listener()
    for _ in range(2):
        base = resolve_base("auto", store, cache=tmp_path, observer=listener)
        assert base.record.kind == "debian"
    assert store.pulls == [SLIM]
    assert len(debian_built) == 2
    assert listener.results[0][2] == "no image registry answered; built"


@pytest.mark.usefixtures("debian_built")
def test_auto_does_not_wait_for_a_silent_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    class Silent(FakeStore):
        def pull_image(self, reference: str) -> StoredImage:
            released.wait()
            raise ImageError("timeout")

    monkeypatch.setattr(bases, "REGISTRY_PATIENCE", 0.05)
    try:
        assert resolved("auto", Silent(), tmp_path).record.kind == "debian"
    finally:
        released.set()


WISHES = Wishes(apt=("libgl1",), snapshot="2026-11-01T00:00:00Z")


def test_debian_packages_and_a_snapshot_are_what_debian_is_built_from(
    tmp_path: Path, debian_built: list[tuple[Recipe, str | None]]
) -> None:
    pinned = BaseRecord(kind="debian", reference="bookworm", digest=DIGEST)
    for base, record in (("debian", None), ("auto", None), ("debian:bookworm", None), ("auto", pinned)):
        resolved(base, FakeStore(), tmp_path, record, wishes=WISHES)
        recipe = debian_built.pop()[0]
        assert (recipe.suite, recipe.snapshot) == ("bookworm", "2026-11-01T00:00:00Z")
        assert set(recipe.packages) == {*entry("debian").packages, "libgl1"}


def test_auto_asks_no_registry_for_what_only_debian_can_give(
    tmp_path: Path, debian_built: list[tuple[Recipe, str | None]]
) -> None:
    store, listener = FakeStore(), Listener()
    store.registry[SLIM] = offered(store)
    base = resolve_base("auto", store, cache=tmp_path, observer=listener, wishes=WISHES)
    assert (base.record.kind, store.pulls, len(debian_built)) == ("debian", [], 1)
    assert listener.results[0][2] == "built"


@pytest.mark.parametrize("base", [SLIM, "local:mine:1"])
@pytest.mark.parametrize(
    ("wishes", "field"), [(Wishes(apt=("libgl1",)), "image.apt"), (Wishes(snapshot=WISHES.snapshot), "image.snapshot")]
)
def test_another_base_takes_no_debian_packages_and_the_user_is_told_what_to_do(
    tmp_path: Path, base: str, wishes: Wishes, field: str
) -> None:
    with pytest.raises(SpecError, match=f"{field} needs a debian base, and image.base is {base}") as caught:
        resolved(base, FakeStore(), tmp_path, wishes=wishes)
    assert "image.base: debian" in (caught.value.hint or "")


@pytest.mark.parametrize(("python", "suite"), [("3.11", "bookworm"), ("3.13", "trixie")])
@pytest.mark.parametrize("base", ["debian", "auto"])
def test_the_release_of_debian_is_the_one_with_the_wanted_python(
    tmp_path: Path, debian_built: list[tuple[Recipe, str | None]], base: str, python: str, suite: str
) -> None:
    assert resolved(base, FakeStore(), tmp_path, wishes=Wishes(python=python)).python == python
    assert debian_built[0][0].suite == suite


def test_auto_takes_the_slim_python_of_the_wanted_version(tmp_path: Path) -> None:
    store = FakeStore()
    store.registry["python:3.12-slim"] = offered(store)
    resolved("auto", store, tmp_path, wishes=Wishes(python="3.12"))
    assert store.pulls == ["python:3.12-slim"]


@pytest.mark.parametrize(
    ("base", "error"), [("debian", SpecError), ("debian:bookworm", SpecError), ("auto", ImageError)]
)
def test_a_python_that_no_base_has_is_answered_with_what_each_offers(
    tmp_path: Path, debian_built: list[tuple[Recipe, str | None]], base: str, error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"3\.12") as caught:
        resolved(base, FakeStore(), tmp_path, wishes=Wishes(python="3.12"))
    details = getattr(caught.value, "details", ())
    assert "debian offers 3.11 (debian:bookworm), 3.13 (debian:trixie)" in details
    assert any(line.startswith("python-slim offers 3.10 (python:3.10-slim)") for line in details)
    assert debian_built == [], "a base was built before its Python was looked at"


def test_a_pinned_debian_is_asked_for_by_digest_and_may_come_out_different(
    tmp_path: Path, debian_built: list[tuple[Recipe, str | None]]
) -> None:
    pinned = BaseRecord(kind="debian", reference="bookworm", digest=DIGEST)
    listener = Listener()
    base = resolve_base("auto", FakeStore(), cache=tmp_path, observer=listener, pinned=pinned)
    assert [wanted for _, wanted in debian_built] == [DIGEST]
    assert base.record.digest != DIGEST
    assert listener.results[0][2] == f"the manifest has {DIGEST[:19]}"


def test_a_local_image_is_found_by_its_id_even_if_the_name_moved_on(tmp_path: Path) -> None:
    store = FakeStore()
    image = offered(store, repo_digests=())
    store.keep(image, "mine:1")
    record = resolved("local:mine:1", store, tmp_path).record
    assert record == BaseRecord(kind="local", reference="mine:1", digest=image.id)
    store.names.clear()
    assert resolved("auto", store, tmp_path, record).record == record


def test_a_base_whose_layers_the_engine_left_out_of_the_pull_is_told_from_one_for_another_system(
    tmp_path: Path,
) -> None:
    store = FakeStore()
    store.registry[SLIM] = replace(offered(store), os="", architecture="", diff_ids=())
    with pytest.raises(ImageError, match="without its layers") as caught:
        resolved(SLIM, store, tmp_path)
    assert "docker rmi" in (caught.value.hint or "")


def test_a_local_image_is_the_same_base_in_every_kind_of_store(tmp_path: Path) -> None:
    layer = tar_of({"usr/bin/python3": b""})
    config = json.dumps({"rootfs": {"diff_ids": [sha256(layer)]}}).encode()
    found = []
    for number, image_id in enumerate((sha256(config), "sha256:" + "7" * 64)):
        store = FakeStore(classic=number == 0)
        store.exports[image_id] = tar_of({"layer.tar": layer, "config": config, "manifest.json": b"[]"})
        store.answers[image_id] = json.dumps(PYTHON_ANSWER)
        store.keep(replace(offered(store), id=image_id, diff_ids=(sha256(layer),), repo_digests=()), "mine:1")
        found.append(resolved("local:mine:1", store, tmp_path).record)
        assert resolved("auto", store, tmp_path, found[0]).record == found[0]
    assert found[0] == found[1] == BaseRecord(kind="local", reference="mine:1", digest=sha256(config))


def test_a_local_image_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="the engine has no image mine:1"):
        resolved("local:mine:1", FakeStore(), tmp_path)


def test_an_unknown_kind_in_a_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="unknown kind: nix"):
        resolved("auto", FakeStore(), tmp_path, BaseRecord(kind="nix", reference="x", digest=DIGEST))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"libc": ""}, "does not use glibc"),
        ({"implementation": "PyPy"}, "has PyPy"),
    ],
)
def test_a_base_whose_python_takes_no_such_wheels_is_refused(
    tmp_path: Path, change: dict[str, str], reason: str
) -> None:
    store = FakeStore()
    image = offered(store)
    store.keep(image, SLIM)
    store.answers[image.id] = json.dumps(PYTHON_ANSWER | change)
    with pytest.raises(ImageError, match=reason) as caught:
        resolved(SLIM, store, tmp_path)
    assert SLIM in (caught.value.hint or "")


def test_a_base_without_python_is_refused(tmp_path: Path) -> None:
    store = FakeStore()
    store.keep(offered(store), SLIM)
    store.answers.clear()
    with pytest.raises(ImageError, match="has no python3 that runs"):
        resolved(SLIM, store, tmp_path)


def test_compressed_layers_of_an_export_are_measured_unpacked(tmp_path: Path) -> None:
    store = FakeStore()
    image = offered(store, packed=True)
    store.keep(image, SLIM)
    layer = tar_of({"usr/bin/python3": b""})
    assert [(item.diff_id, item.size) for item in resolved(SLIM, store, tmp_path).layers] == [
        (sha256(layer), len(layer))
    ]


def test_an_export_without_all_layers_is_refused(tmp_path: Path) -> None:
    store = FakeStore()
    image = offered(store)
    store.keep(image, SLIM)
    store.exports[image.id] = tar_of({"manifest.json": b"[]"})
    with pytest.raises(ImageError, match="does not hold all of its layers"):
        resolved(SLIM, store, tmp_path)
