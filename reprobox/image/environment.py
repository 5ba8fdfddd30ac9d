"""The virtual environment as layers: its skeleton, one layer for each large wheel, one for all the small ones.

Engines limit an image to about 125 layers (Docker: "max depth exceeded"), and whatever lies below a changed layer is
kept; so large wheels come first, largest lowest, and small ones, which change most often, share the top layer.
"""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reprobox import inside
from reprobox.image.install import Installation, InstalledFile
from reprobox.image.layers import Layer, input_key, make_layer
from reprobox.image.layout import MOUNT_POINTS, site_packages
from reprobox.image.readahead import ahead
from reprobox.image.tarstream import LayerWriter
from reprobox.image.wheel import check_hash, open_wheel

LARGE_WHEEL = 8 << 20
MAX_LAYERS = 100

# A file of more bytes is inflated in a thread of its own, up to so many chunks (of 1 MiB) ahead of the layer's hash.
# For small ones the threads' taking turns costs more than it gains: 13,000 files of torch took longer than without.
_LARGE_FILE = 8 << 20
_AHEAD = 4

# What a tar adds to a file: a header of 512 bytes, as much at most for padding, two blocks for a long name, a folder.
_OVERHEAD = 5 * 512

_ROOT = inside.ENVIRONMENT.lstrip("/")


@dataclass(frozen=True, kw_only=True)
class Group:
    """The wheels that share one layer; `key` is what the layer store finds that layer by."""

    key: str
    title: str
    installations: tuple[Installation, ...]


def skeleton(cache: Path, *, python: str, executable: str, occupied: bool, damaged: frozenset[str]) -> Layer:
    """Return the layer with the empty environment, as `python -m venv` lays it out, and the engine's mount points.

    `executable` is the base's interpreter. Where the base holds something at that place (`occupied`), it is hidden.
    `damaged` layers are made anew even if the store holds them.
    """

    def write(out: LayerWriter) -> None:
        home = posixpath.dirname(executable)
        config = f"home = {home}\ninclude-system-site-packages = false\nversion = {python}\n".encode()
        out.folder(_ROOT)
        if occupied:
            # An opaque whiteout: nothing of the lower layers' folder shows through (OCI image spec, layer.md).
            out.file(f"{_ROOT}/.wh..wh..opq", 0, ())
        out.symlink(f"{_ROOT}/bin/python", executable)
        out.symlink(f"{_ROOT}/bin/python3", "python")
        out.symlink(f"{_ROOT}/bin/python{python}", "python")
        out.folder(f"{_ROOT}/{site_packages(python)}")
        out.symlink(f"{_ROOT}/lib64", "lib")
        out.file(f"{_ROOT}/pyvenv.cfg", len(config), (config,))
        for path in MOUNT_POINTS:
            out.folder(path)

    key = input_key("skeleton", python, executable, str(occupied))
    return make_layer(cache, key, f"environment for Python {python}", write, damaged=damaged)


def launcher(cache: Path, *, executable: str | None, damaged: frozenset[str]) -> Layer:
    """Return the layer over a base that holds the environment itself: the engine's mount points, and the name `python`
    for `executable` where the base has none (None: it has).
    """

    def write(out: LayerWriter) -> None:
        out.folder(f"{_ROOT}/bin")
        if executable is not None:
            out.symlink(f"{_ROOT}/bin/python", executable)
        for path in MOUNT_POINTS:
            out.folder(path)

    return make_layer(cache, input_key("launcher", executable or ""), "names in the base", write, damaged=damaged)


def reserved_paths(python: str) -> dict[str, str]:
    """Return what wheels may not replace, relative to the environment."""
    interpreter = "the environment's interpreter"
    return {
        "bin/python": interpreter,
        "bin/python3": interpreter,
        f"bin/python{python}": interpreter,
        "pyvenv.cfg": "the environment's configuration",
        "lib64": "the environment's link to lib",
    }


def group_wheels(
    installations: Sequence[Installation], python: str, base_layers: int, *, layers_each: int = 1
) -> tuple[Group, ...]:
    """Say which wheels share a layer, lowest layer first, so that MAX_LAYERS is kept with the base's layers.

    `layers_each` is how many layers a group comes to: one, or two with its bytecode.
    """
    sizes = {installation.package.name: installation.path.stat().st_size for installation in installations}
    by_size = sorted(installations, key=lambda item: (-sizes[item.package.name], item.package.name))
    # One for the skeleton, and one group for the small wheels.
    room = max(0, (MAX_LAYERS - base_layers - 1) // layers_each - 1)
    large = [item for item in by_size if sizes[item.package.name] > LARGE_WHEEL][:room]
    small = sorted((item for item in by_size if item not in large), key=lambda item: item.package.name)
    groups: list[tuple[Installation, ...]] = [(item,) for item in large]
    if small:
        groups.append(tuple(small))
    return tuple(
        Group(
            key=input_key("wheels", python, *(item.package.sha256 for item in group)),
            title=_title(group),
            installations=group,
        )
        for group in groups
    )


def layer_size(group: Group) -> int:
    """Return about how many bytes the layer of a group takes: at least as many as it will."""
    return sum(item.size + _OVERHEAD * len(item.files) for item in group.installations)


def make_group(cache: Path, group: Group, *, damaged: frozenset[str], progress: Callable[[int], None]) -> Layer:
    """Return the layer of these wheels; `progress` is told how many bytes were unpacked since it was last told.

    `damaged` layers are made anew even if the store holds them.
    """

    def write(out: LayerWriter) -> None:
        with contextlib.ExitStack() as stack:
            chosen: dict[str, tuple[InstalledFile, Callable[[str], Iterator[bytes]]]] = {}
            for installation in group.installations:
                check_hash(installation.package, installation.path)
                wheel = stack.enter_context(open_wheel(installation.package, installation.path))
                for file in installation.files:
                    # Two wheels may hold one file with one content (see check_ownership): it is written once.
                    chosen.setdefault(file.target, (file, wheel.chunks))
            for target in sorted(chosen):
                file, chunks = chosen[target]
                content = iter((file.content,)) if file.content is not None else chunks(file.entry or "")
                with ahead(content, _AHEAD) if file.size > _LARGE_FILE else contextlib.nullcontext(content) as content:
                    out.file(f"{_ROOT}/{target}", file.size, _counted(content, progress), mode=file.mode)

    return make_layer(cache, group.key, group.title, write, damaged=damaged)


def _counted(chunks: Iterator[bytes], progress: Callable[[int], None]) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk
        progress(len(chunk))


def _title(group: Sequence[Installation]) -> str:
    if len(group) > 3:
        return f"{len(group)} wheels: {group[0].title} to {group[-1].title}"
    return ", ".join(item.title for item in group)
