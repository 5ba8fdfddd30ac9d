"""Starts the runtime before the user's program, in every Python that inherits `PYTHONPATH` and `REPROBOX_RECORD`.

Python imports `sitecustomize` by itself at startup (docs.python.org/3/library/site.html). The one that this file hides,
for instance Debian's, runs afterwards as it would have without us.
"""

from __future__ import annotations

import os
import sys


def _start_runtime() -> None:
    if not os.environ.get("REPROBOX_RECORD"):
        return
    try:
        from reprobox.runtime import start

        start.start()
    except Exception as error:  # a broken runtime must not end the user's training; the host notices what is missing
        sys.stderr.write("reprobox: the runtime did not start: %s: %s\n" % (type(error).__name__, error))


def _run_hidden_sitecustomize() -> None:
    import importlib.machinery
    import importlib.util

    here = os.path.dirname(os.path.abspath(__file__))
    others = [folder for folder in sys.path if os.path.abspath(folder) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


_start_runtime()
_run_hidden_sitecustomize()
