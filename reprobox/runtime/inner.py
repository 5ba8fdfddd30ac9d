"""Has the runtime start in virtual environments that a program of the local engine makes with `venv`, too.

Their Python is the machine's own, in which nothing may be placed. In a container the start file is part of that.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

from . import hooks


def install() -> None:
    """Wait for the module `venv`."""
    site = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    # The local engine's own prefix; a container has none.
    if not os.path.isdir(os.path.join(site, "env")):
        return
    pth = os.path.join(site, "reprobox.pth")

    def patch(module: Any) -> None:
        with contextlib.suppress(AttributeError):  # a module of the program's own that is called so
            module.EnvBuilder.create = hooks.followed(module.EnvBuilder.create, place)

    def place(builder: Any, folder: Any) -> None:
        version = "python%d.%d" % sys.version_info[:2]
        packages = os.path.join(os.fspath(folder), "lib", version, "site-packages")
        with open(pth, encoding="utf-8") as lines, open(os.path.join(packages, "reprobox.pth"), "w") as inner:
            # Without the lines that add the run's packages.
            inner.write(lines.readline())

    hooks.after_import("venv", patch)
