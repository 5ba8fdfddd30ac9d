"""Starts the runtime before the user's program: the start file of a run, with the two paths below filled in.

Python finds it by itself, whatever its variables and options say, unless it is told `-S`: as `sitecustomize`, in a
folder that is mounted where its search path has the archive of its standard library, which hardly any installation
has; and by `reprobox.pth` among the installed packages, so that a `sitecustomize` of the user's own does not hide it
(docs.python.org/3/library/site.html, sys_path_init.html).
"""

from __future__ import annotations

_SITE = "@SITE@"
_RECORD = "@RECORD@"


def _start() -> None:
    import os
    import sys

    # By the other of the two ways; and site reads the .pth files of a virtual environment twice.
    own = sys.modules.get("reprobox")
    if own is not None and own.__file__ == os.path.join(_SITE, "reprobox", "__init__.py"):
        return
    if not os.path.exists(os.path.join(_RECORD, "config.json")):
        return
    try:
        import importlib.util

        # By their place, not by sys.path, which stays as the program would have it; and before any reprobox that is
        # installed among its own packages.
        for name in ("reprobox", "reprobox.runtime"):
            folder = os.path.join(_SITE, *name.split("."))
            file = os.path.join(folder, "__init__.py")
            spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=[folder])
            assert spec is not None and spec.loader is not None  # as for every file of that name
            module = sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        sys.modules["reprobox"].runtime = module  # type: ignore[attr-defined]
        from reprobox.runtime import start

        start.start(_RECORD)
    except (Exception, SystemExit) as error:
        # A broken runtime must not end the user's training; the host notices what is missing.
        sys.stderr.write("reprobox: the runtime did not start: %s: %s\n" % (type(error).__name__, error))


def _give_way() -> None:
    """Have Python import the `sitecustomize` that it would have found without this file, and look here no more."""
    import os
    import sys

    sys.path_importer_cache[os.path.dirname(__file__)] = None
    sys.modules.pop("sitecustomize", None)
    # Where there is none, the ImportError is what site expects.
    import sitecustomize  # type: ignore[import-not-found]  # noqa: F401


_start()
if __name__ == "sitecustomize":
    _give_way()
