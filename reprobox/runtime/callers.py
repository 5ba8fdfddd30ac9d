"""Whose code is calling: the user's, a library's, torch's, the standard library's or reprobox's own."""

from __future__ import annotations

import os
import sys
from types import FrameType

USER, LIBRARY, TORCH, STDLIB, OWN = "user", "library", "torch", "stdlib", "reprobox"

_TORCH_PACKAGES = ("torch", "torchgen", "functorch", "triton")
# They list the user's data on the user's behalf, and not all of them in order (torchvision's Kitti and Cityscapes).
_DATA_MODULES = ("torchvision.datasets",)
# Parts of torch that only pass a call on: its compiler wraps torch.manual_seed and the like, to keep away from them.
_PASSING_ON = tuple(os.sep + os.path.join("torch", part) for part in ("_dynamo" + os.sep, "_compile.py"))
_PACKAGE_FOLDERS = ("site-packages", "dist-packages")
_own_folder = os.path.dirname(os.path.abspath(__file__)) + os.sep
_stdlib_folder = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
# Taken when the process starts: a program that changes its working folder keeps its place names.
_start_folder = os.getcwd()
_kinds: dict[str, str] = {}


def kind_of(frame: FrameType) -> str:
    """Return USER, LIBRARY, TORCH, STDLIB or OWN for the code that runs in a frame."""
    name = frame.f_code.co_filename
    kind = _kinds.get(name)
    if kind is None:
        kind = _kinds[name] = _kind(name)
    return kind


def reads_data(frame: FrameType) -> bool:
    """Say whether the code in a frame is the user's, or a library's that reads data on the user's behalf."""
    kind = kind_of(frame)
    return kind == USER or (kind == LIBRARY and str(frame.f_globals.get("__name__")).startswith(_DATA_MODULES))


def module_of(frame: FrameType) -> str:
    """Return the top-level name of the module whose code runs in a frame."""
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def place_of(frame: FrameType) -> str:
    """Return `file:line`: relative to the working folder, or to the folder that packages are installed in."""
    name = frame.f_code.co_filename
    inside = _package_path(name)
    if inside is None and not name.startswith("<"):
        inside = os.path.relpath(os.path.join(_start_folder, name), _start_folder)
        if os.sep + "ipykernel_" in name:
            inside = "<notebook cell>"  # the file's name holds a process ID and differs from run to run
        elif inside.startswith(".."):
            inside = os.path.basename(name)
    return "%s:%d" % (inside or name, frame.f_lineno)


def users_place(frame: FrameType) -> str:
    """Return `file:line` of the nearest code of the user's from `frame` outwards, else of the nearest library's."""
    found = nearest((OWN, TORCH, STDLIB, LIBRARY), frame) or nearest((OWN, TORCH, STDLIB), frame) or frame
    return place_of(found)


def nearest(skip: tuple[str, ...], start: FrameType | None) -> FrameType | None:
    """Return the first frame from `start` outwards whose kind is not in `skip`."""
    frame = start
    while frame is not None and kind_of(frame) in skip:
        frame = frame.f_back
    return frame


def asking(frame: FrameType) -> FrameType:
    """Return the first frame from `frame` outwards that does more than pass the call on for torch's compiler."""
    while frame.f_back is not None and any(part in frame.f_code.co_filename for part in _PASSING_ON):
        frame = frame.f_back
    return frame


def calling_frame(depth: int) -> FrameType:
    """Return the frame `depth` levels above the caller's own."""
    return sys._getframe(depth + 1)


def _kind(name: str) -> str:
    if name.startswith("<frozen "):
        return STDLIB
    path = os.path.join(_start_folder, name)
    if path.startswith(_own_folder):
        return OWN
    inside = _package_path(path)
    if inside is not None:
        return TORCH if inside.partition(os.sep)[0] in _TORCH_PACKAGES else LIBRARY
    return STDLIB if path.startswith(_stdlib_folder) else USER


def _package_path(path: str) -> str | None:
    """Return the part of a path below the folder that packages are installed in, or None."""
    for folder in _PACKAGE_FOLDERS:
        _, found, inside = path.rpartition(os.sep + folder + os.sep)
        if found:
            return inside
    return None
