"""Runs inside a build container, as a script: has a source archive's own build backend (PEP 517) do its work.

Arguments: the folder with the one source archive, and what to do. `requires` writes what the backend needs beside
`build-system.requires` to `requires.json`, a list; `wheel` puts the wheel into `dist`. pypa/build is installed there.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

# What the image's own files have, so that nothing in a wheel tells when it was built (reproducible-builds.org).
_STILL = {"SOURCE_DATE_EPOCH": "315532800", "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def main(folder: Path, what: str) -> None:
    """Unpack the archive in `folder` and ask or build."""
    os.environ.update(_STILL)
    os.umask(0o022)
    build = importlib.import_module("build")
    try:
        builder = build.ProjectBuilder(_unpacked(folder))
        if what == "requires":
            (folder / "requires.json").write_text(json.dumps(sorted(builder.get_requires_for_build("wheel"))))
        else:
            builder.build("wheel", folder / "dist")
    except (build.BuildException, build.BuildBackendException) as error:
        # What went wrong the backend has said itself; where this script was then helps nobody.
        sys.exit(str(error))


def _unpacked(folder: Path) -> Path:
    """Return the one folder that the archive holds, unpacked anew: a backend may leave files when it is asked."""
    place = folder / "source"
    shutil.rmtree(place, ignore_errors=True)
    (archive,) = (path for path in folder.iterdir() if path.name.endswith((".zip", ".tgz")) or ".tar." in path.name)
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(place)
    else:
        with tarfile.open(archive) as tar:
            # Python before 3.11.4 has no filter; nothing but this folder can be reached anyway.
            tar.extraction_filter = getattr(tarfile, "data_filter", None)
            tar.extractall(place)
    (root,) = (path for path in place.iterdir() if path.is_dir())
    return root


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
