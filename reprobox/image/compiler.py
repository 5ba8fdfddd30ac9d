"""Runs the base's own Python, in a container without network, over the sources that become bytecode."""

from __future__ import annotations

from pathlib import Path

from reprobox import inside
from reprobox.image import pycompile
from reprobox.image.assemble import assemble
from reprobox.image.bases import Base
from reprobox.image.bytecode import Compiler
from reprobox.image.interface import ImageStore
from reprobox.image.load import load
from reprobox.progress import Observer


def container_compiler(base: Base, store: ImageStore, *, cache: Path, observer: Observer) -> Compiler:
    """Return what compiles in throw-away containers of the base.

    A base that the engine does not hold yet is loaded, with an empty environment upon it: these are the lowest layers
    of the image to come, which need not be sent again then.
    """

    def compile_in(folder: Path) -> None:
        image = base.image_id
        if image is None:
            image = load(assemble(base, (), cache=cache, observer=observer), store, observer=observer, name="base")
        # Isolated and without `site`, so that nothing of the base's packages is started.
        python = (base.python_executable, "-I", "-S", "-B", "-c")
        store.run_once(
            image, (*python, Path(pycompile.__file__).read_text(encoding="utf-8"), inside.WORK), folder=folder
        )

    return compile_in
