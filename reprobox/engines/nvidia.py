"""NVIDIA's driver as it lies on this machine: device files and user-space libraries, to be passed where no toolkit is.

A driver is two halves of one version: the kernel module behind the device files, and libraries such as `libcuda.so.1`.
CUDA itself comes with the wheels. Source: NVIDIA Container Toolkit, architecture overview.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_CONTROL_DEVICES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")
_LIBRARY_FOLDERS = (
    "/usr/local/nvidia/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib/wsl/lib",
)
# What computing needs: CUDA's driver, its just-in-time compilers, and NVML. Not what draws.
_LIBRARY = re.compile(r"lib(?:cuda|cudadebugger|nvidia-(?:ml|ptxjitcompiler|nvvm\d*|gpucomp))\.so(?:\.\d+)*")


@dataclass(frozen=True, kw_only=True)
class Driver:
    """`gpus` are the device files of the GPUs by index, `controls` those that every program needs, `libraries` pairs of
    the name under which programs look for a file and the file.
    """

    gpus: tuple[str, ...]
    controls: tuple[str, ...]
    libraries: tuple[tuple[str, str], ...]

    def devices(self, indices: Iterable[int] | None) -> list[str]:
        """Return the device files for these GPUs (None: all). Raises IndexError for a GPU that is not there."""
        chosen = self.gpus if indices is None else [self.gpus[index] for index in indices]
        return [*chosen, *self.controls]


def find_driver(devices: Path = Path("/dev"), folders: Iterable[str] | None = None) -> Driver | None:
    """Return the driver of this machine, or None when either half is missing.

    `folders` are looked through in order for `libcuda.so.1`: LD_LIBRARY_PATH, then the usual places.
    """
    numbers = [int(match[1]) for path in devices.glob("nvidia*") if (match := re.fullmatch(r"nvidia(\d+)", path.name))]
    if folders is None:
        folders = [*os.environ.get("LD_LIBRARY_PATH", "").split(":"), *_LIBRARY_FOLDERS]
    home = next((Path(folder) for folder in folders if folder and (Path(folder) / "libcuda.so.1").exists()), None)
    if not numbers or home is None:
        return None
    libraries = {path.name: str(path.resolve()) for path in home.iterdir() if _LIBRARY.fullmatch(path.name)}
    # The name that linkers ask for (`-lcuda`, as Triton up to 3.5 does) comes with CUDA's toolkit alone.
    libraries.setdefault("libcuda.so", libraries["libcuda.so.1"])
    return Driver(
        gpus=tuple(str(devices / f"nvidia{number}") for number in sorted(numbers)),
        controls=tuple(str(devices / name) for name in _CONTROL_DEVICES if (devices / name).exists()),
        libraries=tuple(sorted(libraries.items())),
    )
