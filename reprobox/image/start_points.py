"""Where the Python of an image finds a file that runs before the program, without any of the image's own being hidden.

Every CPython looks for modules in an archive of its standard library first, after PYTHONPATH: a path that holds nothing
as a rule (docs.python.org/3/library/sys_path_init.html), so a folder may be mounted there; virtual environments that a
program makes have it from the Python below them. And `site` reads the `.pth` files of an environment.
"""

from __future__ import annotations

from pathlib import Path

from reprobox import inside
from reprobox.image.bases import Base
from reprobox.image.interface import ImageStore
from reprobox.image.layout import site_packages
from reprobox.image.probe import probe

_PTH = "reprobox.pth"


def start_points(base: Base, image_id: str, store: ImageStore, *, cache: Path) -> tuple[str, ...]:
    """Return the start points of an image upon `base`, first that of every Python, then that of its environment.

    An image that came as a whole, of whose base nothing is known, is asked itself, once. Raises ImageError when that
    has no usable Python.
    """
    python, found = base.python, base.probe
    if not python:
        found = probe(image_id, base.record.reference.partition("@")[0], store, cache=cache)
        python = found.python
    # Debian's Python is not asked: it is where its package puts it.
    archive = found.archive if found is not None else f"/usr/lib/python{python.replace('.', '')}.zip"
    own = () if base.installed else (f"{inside.ENVIRONMENT}/{site_packages(python)}/{_PTH}",)
    return (*((archive,) if archive else ()), *own)
