"""What wheels are laid upon: turns `image.base` into a Base with known layers, Python and C library."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from reprobox.cache import keep, storage_errors
from reprobox.digests import hex_of
from reprobox.errors import ImageError, SpecError
from reprobox.image import catalogue, debian
from reprobox.image.exported import Exported, measure
from reprobox.image.interface import ImageStore, StoredImage
from reprobox.image.layers import Layer, read_json
from reprobox.image.model import BaseRecord
from reprobox.image.probe import Probe, probe
from reprobox.progress import Observer

# How long `auto` waits for a registry before it goes on without. Without a network the engine itself gives up within
# 15 s (Docker's registry client); the rest is room for the 45 MB of a slim Python on a slow line.
REGISTRY_PATIENCE = 60.0

_LIBRARY = ("docker.io/library/", "docker.io/", "library/")


@dataclass(frozen=True, kw_only=True)
class Base:
    """A base, ready to be built upon.

    `layers` are its layers, lowest first; `env` its environment variables; `python` its minor version (`3.11`) and
    `python_executable` the path of that interpreter; `glibc` its version; `architecture` in OCI's spelling (`amd64`).
    `occupied` says whether something lies where the environment goes. `installed` is set where the base itself holds
    the environment, so that nothing is installed. `image_id` is the engine's ID of a registry or local base, `probe`
    what that base said of itself, and `exported` how to stream its layers; all three are None for a debian base, whose
    layer the cache holds and whose `recipe` makes it again.
    """

    record: BaseRecord
    layers: tuple[Layer, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    python: str
    python_executable: str
    glibc: tuple[int, int]
    architecture: str
    occupied: bool = False
    installed: bool = False
    probe: Probe | None = None
    image_id: str | None = None
    exported: Exported | None = None
    recipe: debian.Recipe | None = None


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What is asked of a base beside its name: a minor version of `python` (None: whichever it has), Debian packages to
    add, and the moment whose state of Debian's archive it is built from (see `debian.Recipe`).
    """

    python: str | None = None
    apt: tuple[str, ...] = ()
    snapshot: str | None = None

    @property
    def of_debian(self) -> str | None:
        """The field of the spec that only a debian base can fulfil, if one is used."""
        return "image.apt" if self.apt else "image.snapshot" if self.snapshot else None


def resolve_base(
    base: str,
    store: ImageStore,
    *,
    cache: Path,
    observer: Observer,
    pinned: BaseRecord | None = None,
    installed: bool = False,
    wishes: Wishes | None = None,
) -> Base:
    """Return the base that `image.base` names: `auto`, `debian`, `debian:SUITE`, `local:REF` or a registry reference.

    With `pinned` (a manifest's record) that very base is looked for and `base` is not read; where it cannot be had (a
    Debian archive that moved on, a local image built anew) the nearest one is returned with its own record, so that the
    caller can say what differs. With `installed` the base is the whole environment, and its record lists the Python
    distributions found inside. Raises SpecError when the base cannot fulfil `wishes`, ImageError when there is no such
    base or it has no usable Python.
    """
    wishes = wishes or Wishes()
    if pinned is not None:
        resolved, note = _pinned(pinned, wishes, store, cache, observer), "as in the manifest"
        if resolved.record.digest != pinned.digest:
            note = f"the manifest has {_short(pinned.digest)}"
    elif base == "auto":
        resolved, note = _automatic(wishes, store, cache, observer)
    elif base == "debian" or base.startswith("debian:"):
        resolved, note = _debian(_recipe(base.partition(":")[2], wishes), None, cache, observer)
    elif wishes.of_debian is not None:
        raise _not_debian(base, wishes.of_debian)
    elif base.startswith("local:"):
        resolved, note = _local(base.removeprefix("local:"), None, store, cache, observer), ""
    else:
        resolved, note = _registry(base, store, cache, observer)
    if installed:
        resolved = _as_environment(resolved)
    observer.finished("base", describe_base(resolved), note)
    return resolved


def describe_base(base: Base) -> str:
    """Say in one line which base it is."""
    record = base.record
    return f"{record.kind} {record.reference.partition('@')[0]}   {_short(record.digest)}"


def _as_environment(base: Base) -> Base:
    if base.probe is None:
        raise ImageError(
            f"the base {base.record.kind} {base.record.reference} holds no packages to train with",
            details=("environment.installed takes what lies in the base, and nothing is installed",),
            hint="name an image that has them (image.base: local:IMAGE), or leave environment.installed out",
        )
    record = replace(base.record, packages=base.probe.packages)
    return replace(base, record=record, installed=True)


def _not_debian(base: str, field: str) -> SpecError:
    image = base.removeprefix("local:")
    advice = {
        "image.apt": f"write image.base: debian; or build an image that has the packages (FROM {image}, RUN apt-get "
        "install ...) and name it as image.base: local:IMAGE",
        "image.snapshot": "write image.base: debian, or leave image.snapshot out: other bases are pinned by digest",
    }
    return SpecError(f"{field} needs a debian base, and image.base is {base}", hint=advice[field])


def _recipe(suite: str, wishes: Wishes) -> debian.Recipe:
    """Return what to build: the suite, or where none is named the one with the Python that is wished for."""
    entry = catalogue.entry("debian")
    found = suite or entry.offering(wishes.python)
    pythons = {name: python for python, name in entry.pythons.items()}
    if found is None or (wishes.python is not None and pythons.get(found, wishes.python) != wishes.python):
        what = (
            f"Debian {found} has Python {pythons[found]}"
            if found
            else "no release of Debian has the Python that is wished"
        )
        raise SpecError(
            f"{what}, and environment.python is {wishes.python}",
            details=catalogue.offers(),
            hint=f"take another base (image.base: python:{wishes.python}-slim, or local:IMAGE) or another Python",
        )
    return debian.Recipe(suite=found, packages=tuple(sorted({*entry.packages, *wishes.apt})), snapshot=wishes.snapshot)


def _pinned(pinned: BaseRecord, wishes: Wishes, store: ImageStore, cache: Path, observer: Observer) -> Base:
    if pinned.kind == "debian":
        recipe = _recipe(pinned.reference, replace(wishes, python=None))
        return _debian(recipe, pinned.digest, cache, observer)[0]
    if pinned.kind == "local":
        return _local(pinned.reference, pinned.digest, store, cache, observer)
    if pinned.kind == "registry":
        reference = f"{_repository(pinned.reference)}@{pinned.digest}"
        return _of_image(_pull_pinned(reference, store, observer), pinned, store, cache, observer)
    raise ImageError(
        f"a base of unknown kind: {pinned.kind}",
        details=("known are debian, registry and local",),
        hint="the manifest may come from a later reprobox",
    )


def _automatic(wishes: Wishes, store: ImageStore, cache: Path, observer: Observer) -> tuple[Base, str]:
    """Take the first base of the catalogue that can be had and fulfils the wishes; a registry that did not answer once
    is not asked again.
    """
    remembered = cache / "bases" / "auto.json"
    unanswered = read_json(remembered)
    silent = [str(reference) for reference in unanswered] if isinstance(unanswered, list) else []
    for entry in catalogue.automatic():
        reference = entry.offering(wishes.python)
        if reference is None or (entry.kind != "debian" and wishes.of_debian):
            continue
        if entry.kind == "debian":
            base, note = _debian(_recipe(reference, wishes), None, cache, observer)
            return base, f"no image registry answered; {note}" if silent and not wishes.of_debian else note
        if reference in silent:
            continue
        image = _from_registry(reference, store, cache, observer)
        if image is None:
            image = _pull_within(reference, REGISTRY_PATIENCE, store, observer)
        if image is not None:
            return _of_registry_image(image, reference, store, cache, observer), ""
        silent.append(reference)
        with storage_errors(cache):
            # Kept until the cache is emptied: one machine should not change its base from run to run.
            keep(remembered, json.dumps(silent).encode())
    raise ImageError(
        "none of the bases that `auto` tries can be had"
        + ("" if wishes.python is None else f" with Python {wishes.python}"),
        details=catalogue.offers(),
        hint="name one in image.base",
    )


def _debian(recipe: debian.Recipe, wanted: str | None, cache: Path, observer: Observer) -> tuple[Base, str]:
    root, cached = debian.debian_root(recipe, cache=cache, observer=observer, wanted=wanted)
    installed = root.installed
    python = ".".join(root.version_of("python3").split(".")[:2])
    glibc = root.version_of("libc6").partition("-")[0].split(".")
    base = Base(
        record=BaseRecord(
            kind="debian",
            reference=recipe.suite,
            digest=root.layer.diff_id,
            packages=installed.packages,
            debs=installed.debs,
        ),
        layers=(root.layer,),
        python=python,
        python_executable=f"/usr/bin/python{python}",
        glibc=(int(glibc[0]), int(glibc[1])),
        architecture=installed.architecture,
        recipe=recipe,
    )
    return base, "cached" if cached else "built"


def _local(reference: str, digest: str | None, store: ImageStore, cache: Path, observer: Observer) -> Base:
    pinned = store.find_image(digest) if digest else None
    image = pinned or store.find_image(reference)
    if image is None:
        raise ImageError(
            f"the engine has no image {reference}",
            details=(f"looked for {digest}",) if digest else (),
            hint="build or load it first; `docker images` lists what is there",
        )
    record = BaseRecord(kind="local", reference=reference, digest=digest if pinned and digest else image.id)
    base = _of_image(image, record, store, cache, observer)
    if pinned is not None or base.exported is None:
        return base
    # Not the engine's ID, which is the config's digest in one kind of store and the manifest's in another.
    return replace(base, record=replace(record, digest=base.exported.config_digest))


def _registry(reference: str, store: ImageStore, cache: Path, observer: Observer) -> tuple[Base, str]:
    image = _from_registry(reference, store, cache, observer)
    note = "in the engine" if image is not None else "pulled"
    return _of_registry_image(image or _pull(reference, store, observer), reference, store, cache, observer), note


def _of_registry_image(image: StoredImage, reference: str, store: ImageStore, cache: Path, observer: Observer) -> Base:
    name = _repository(reference)
    digests = {item.partition("@")[0]: item.partition("@")[2] for item in sorted(image.repo_digests, reverse=True)}
    same = [digest for repository, digest in digests.items() if _plain(repository) == _plain(name)]
    if not digests:
        raise ImageError(
            f"the image {reference} has no digest that a registry knows it by",
            hint=f"if it was built on this machine, write image.base: local:{reference}",
        )
    digest = (same or list(digests.values()))[0]
    tagged = reference.partition("@")[0]
    record = BaseRecord(kind="registry", reference=f"{tagged}@{digest}", digest=digest)
    return _of_image(image, record, store, cache, observer)


def _of_image(image: StoredImage, record: BaseRecord, store: ImageStore, cache: Path, observer: Observer) -> Base:
    name = record.reference.partition("@")[0]
    if not image.os:
        raise ImageError(
            f"the engine has the base image {name} without its layers",
            details=("Docker's containerd store leaves them out of a pull where another image has them unpacked",),
            hint=f"remove the images upon that base (`docker rmi`) and {name} itself, then run again; a later Docker "
            "fetches them (https://github.com/moby/moby/issues/49784)",
        )
    if image.os != "linux":
        raise ImageError(f"the base image {name} is for {image.os}", hint="name a Linux image")
    found = probe(image.id, name, store, cache=cache)
    exported = measure(image, name, store, cache=cache, observer=observer)
    variables = [item.partition("=") for item in image.config.get("Env") or ()]
    return Base(
        record=record,
        layers=tuple(
            Layer(diff_id=diff_id, size=exported.size_of(diff_id), made_from="base") for diff_id in image.diff_ids
        ),
        env={key: value for key, _, value in variables},
        python=found.python,
        python_executable=found.executable,
        glibc=found.glibc,
        architecture=image.architecture,
        occupied=found.occupied,
        probe=found,
        image_id=image.id,
        exported=exported,
    )


def _from_registry(reference: str, store: ImageStore, cache: Path, observer: Observer) -> StoredImage | None:
    """Return the image of that name if the engine has it, unless no registry knows it. What one knew is kept."""
    image = store.find_image(reference)
    if image is None or not image.repo_digests:
        return None
    remembered = cache / "bases" / f"known-{hex_of(image.id)}.json"
    if read_json(remembered) == list(image.repo_digests):
        return image
    answers = [store.registry_knows(digest) for digest in image.repo_digests]
    if all(answer is False for answer in answers):
        return None
    if True in answers:
        with storage_errors(cache):
            keep(remembered, json.dumps(image.repo_digests).encode())
    else:
        observer.warning(
            f"no registry answered whether it has {image.repo_digests[0]}; if the image was built on this machine, "
            f"write image.base: local:{reference}"
        )
    return image


def _pull(reference: str, store: ImageStore, observer: Observer) -> StoredImage:
    observer.working("base", f"pulling {reference}")
    return store.pull_image(reference)


def _pull_pinned(reference: str, store: ImageStore, observer: Observer) -> StoredImage:
    try:
        return store.find_image(reference) or _pull(reference, store, observer)
    except ImageError as error:
        raise ImageError(
            error.message,
            details=(*error.details, "this very base is what the manifest was recorded with"),
            hint="if it was deleted there: replay the run as it was pushed (oci://...) or packed, which need no base; "
            "or run it anew on another base (image.base)",
        ) from error


def _pull_within(reference: str, seconds: float, store: ImageStore, observer: Observer) -> StoredImage | None:
    """Pull, or return None when the registry refuses, is not there, or takes longer than `seconds`."""
    observer.working("base", f"asking for {reference}")
    pulled: list[StoredImage] = []

    def pull() -> None:
        try:
            pulled.append(store.pull_image(reference))
        except ImageError:
            # Whatever the reason, `auto` goes on without; naming the reference in image.base shows it.
            return

    # A daemon thread, because the engine's interface has no timeout and a process must be able to end meanwhile.
    thread = threading.Thread(target=pull, daemon=True, name="reprobox-pull")
    thread.start()
    thread.join(seconds)
    return pulled[0] if pulled else None


def _repository(reference: str) -> str:
    """Return a reference without digest and tag; a colon before the last slash belongs to a host's port."""
    name = reference.partition("@")[0]
    head, colon, tail = name.rpartition(":")
    return head if colon and "/" not in tail else name


def _plain(repository: str) -> str:
    for prefix in _LIBRARY:
        repository = repository.removeprefix(prefix)
    return repository


def _short(digest: str) -> str:
    return digest[: len("sha256:") + 12]
