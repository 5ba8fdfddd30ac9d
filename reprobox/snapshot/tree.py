"""Finds the files that are a project's code: what git would take in, less what is never code."""

from __future__ import annotations

import os
import posixpath
import re
import stat
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reprobox.errors import SpecError
from reprobox.snapshot.model import GitState

# What the program or its tools make again by themselves. Folders of these names are left out at any depth.
_TOOL_FOLDERS = frozenset(
    {
        ".git",
        ".hg",
        ".svn",
        ".venv",
        "__pycache__",
        "node_modules",
        ".hypothesis",
        ".ipynb_checkpoints",
        ".mypy_cache",
        ".nox",
        ".pytest_cache",
        ".ruff_cache",
        ".tox",
    }
)
_TOOL_SUFFIXES = (".pyc", ".pyo")
# What reprobox itself writes: at the top of a project, and wherever the user has it write bundles and images.
_OWN_FOLDERS = frozenset({"runs", "replays"})
_OWN_SUFFIXES = (".rbx", ".oci.tar")
_OWN_WHEELS = re.compile(r"wheels/[^/]+\.whl")
_VENV_MARK = "pyvenv.cfg"  # PEP 405
# What git exports to its hooks; it would make git look at another checkout than the project's.
_GIT_ELSEWHERE = frozenset(
    {"GIT_COMMON_DIR", "GIT_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_WORK_TREE"}
)


@dataclass(frozen=True, kw_only=True)
class CodeFiles:
    """The code of a project: `paths` relative to it, with slashes, sorted by their bytes. Links count as files.

    `git` is None outside a checkout and in one without commits; `note` says in one line why git was not asked although
    there is a checkout, else it is None.
    """

    paths: tuple[str, ...]
    git: GitState | None
    note: str | None


def find_code(project: Path, exclude: Sequence[str] = ()) -> CodeFiles:
    """List the code files under `project`, without those at or under a path of `exclude` (relative to `project`).

    Inside a git checkout these are the tracked and the untracked files that are not ignored, as they lie in the
    folder (submodules and nested checkouts are expanded); elsewhere, or where the checkout ignores the whole project,
    all files. Raises SpecError for a folder that cannot be listed, a name that is not UTF-8, a pipe, socket or device.
    """
    chosen = _Chooser(project, exclude)
    listing, note = _git_files(project)
    if listing:
        paths = {path for name in listing for path in _listed(project, name, chosen)}
        return CodeFiles(paths=_sorted(paths), git=_git_state(project, chosen), note=note)
    return CodeFiles(paths=_sorted(set(_walk(project, "", chosen))), git=None, note=note)


class _Chooser:
    """Decides by path what is never code; remembers what it found out about folders."""

    def __init__(self, project: Path, exclude: Sequence[str]) -> None:
        self._project = project
        self._excluded = {posixpath.normpath(path) for path in exclude} - {"."}
        self._folders: dict[str, bool] = {"": True}

    def takes(self, path: str) -> bool:
        """Say whether the file or folder at `path`, all folders above it included, may be code."""
        folder, name = posixpath.split(path)
        if path in self._excluded or name in _TOOL_FOLDERS or name.endswith(_TOOL_SUFFIXES):
            return False
        if (not folder and name in _OWN_FOLDERS) or name.endswith(_OWN_SUFFIXES) or _OWN_WHEELS.fullmatch(path):
            return False
        return self.enters(folder)

    def enters(self, folder: str) -> bool:
        """Say whether the real folder at `folder` may hold code; a link to a folder is not one."""
        if folder not in self._folders:
            here = self._project / folder
            self._folders[folder] = self.takes(folder) and not here.is_symlink() and not (here / _VENV_MARK).is_file()
        return self._folders[folder]


def _listed(project: Path, name: str, chosen: _Chooser) -> Iterator[str]:
    """Give the files that one line of git's listing stands for: itself, nothing, or those of a nested checkout."""
    path = name.rstrip("/")
    if not chosen.takes(path):
        return
    try:
        mode = (project / path).lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return  # tracked, but deleted from the folder
    if not stat.S_ISDIR(mode):
        yield _checked(path, mode)
    elif chosen.enters(path):
        nested, _ = _git_files(project / path)
        if nested:
            for inner in nested:
                yield from _listed(project, f"{path}/{inner}", chosen)
        else:
            yield from _walk(project, path, chosen)


def _walk(project: Path, folder: str, chosen: _Chooser) -> Iterator[str]:
    try:
        with os.scandir(project / folder) as entries:
            found = list(entries)
    except OSError as error:
        raise SpecError(
            f"the folder cannot be listed: {folder or project}",
            details=(error.strerror or str(error),),
            hint="make it readable for the user who runs reprobox, or move it out of the project",
        ) from error
    for entry in found:
        path = f"{folder}/{entry.name}" if folder else entry.name
        if not chosen.takes(path):
            continue
        if entry.is_dir(follow_symlinks=False):
            if chosen.enters(path):
                yield from _walk(project, path, chosen)
        else:
            yield _checked(path, entry.stat(follow_symlinks=False).st_mode)


def _checked(path: str, mode: int) -> str:
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise SpecError(
            f"the project holds something that is neither a file, a folder nor a link: {path}",
            details=("pipes, sockets and devices cannot be part of a snapshot",),
            hint="remove it, or put the folder that holds it under `outputs:` in reprobox.yaml",
        )
    try:
        path.encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise SpecError(f"the name of a file in the project is not UTF-8: {shown}", hint="rename it") from error
    return path


def _sorted(paths: set[str]) -> tuple[str, ...]:
    return tuple(sorted(paths, key=str.encode))


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes] | None:
    """Ask git in `folder`; None when there is no git."""
    surroundings = {name: text for name, text in os.environ.items() if name not in _GIT_ELSEWHERE}
    surroundings["LC_ALL"] = "C"
    command = ["git", "--no-optional-locks", "-C", os.fspath(folder), *arguments]
    try:
        return subprocess.run(command, capture_output=True, check=False, env=surroundings, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        return None


def _git_files(folder: Path) -> tuple[list[str], str | None]:
    """Return what git lists under `folder`, relative to it, and a note if there is a checkout but git refuses."""
    answer = _git(folder, "ls-files", "-co", "--exclude-standard", "-z")
    if answer is None:
        return [], None
    if answer.returncode != 0:
        words = answer.stderr.decode(errors="replace").strip()
        if "not a git repository" in words:
            return [], None
        first = words.splitlines()[0] if words else f"exit status {answer.returncode}"
        return [], f"git refuses to look into the project, so every file in it counts as code ({first})"
    return [os.fsdecode(name) for name in answer.stdout.split(b"\0") if name], None


def _git_state(project: Path, chosen: _Chooser) -> GitState | None:
    """Return commit and dirtiness, the latter counting only what may be code under `project`."""
    head = _git(project, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    prefix = _git(project, "rev-parse", "--show-prefix")
    status = _git(project, "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", "--", ".")
    if head is None or prefix is None or status is None or head.returncode or prefix.returncode or status.returncode:
        return None
    above = os.fsdecode(prefix.stdout.rstrip(b"\n"))
    # An entry is two letters of state, a space and the path from the top of the checkout (git-status, "Porcelain").
    changed = [os.fsdecode(entry[3:]).removeprefix(above).rstrip("/") for entry in status.stdout.split(b"\0") if entry]
    return GitState(commit=head.stdout.decode().strip(), dirty=any(chosen.takes(path) for path in changed))
