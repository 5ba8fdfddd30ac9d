"""Whether this machine's NVIDIA driver is new enough for the CUDA that the packages bring, known before anything runs.

Wheels carry CUDA itself, the driver is the machine's. Without this check a training starts, finds no usable GPU and
fails after everything was downloaded, or runs on the CPU.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from reprobox.engines.nvidia import find_driver
from reprobox.errors import EngineError
from reprobox.fingerprint import observe

# The oldest driver on which programs built with any CUDA of a major version run. Source: NVIDIA, CUDA Toolkit release
# notes, table "Minimum Required Driver Version for CUDA Minor Version Compatibility"; CUDA Compatibility, table 1.
OLDEST_DRIVER = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}

# Images with these variables bring NVIDIA's forward compatibility package, which makes do with older drivers.
_COMPATIBILITY = ("NV_CUDA_COMPAT_PACKAGE", "_CUDA_COMPAT_PATH")

_KERNEL_MODULE = Path("/proc/driver/nvidia/version")
_NUMBER = re.compile(r"\d{3,}(?:\.\d+)+")
_RUNTIME = re.compile(r"nvidia-cuda-runtime(?:-cu\d+)?")


@dataclass(frozen=True, kw_only=True)
class Cuda:
    """The CUDA that packages bring: its version, `12.8`, and the `package` that tells it."""

    version: str
    package: str


def cuda_of(packages: Iterable[tuple[str, str]]) -> Cuda | None:
    """Return the CUDA of these packages (normalised name and version), None where none of them tells.

    It is told by the wheel of CUDA's runtime, else by torch's local version: `2.13.0+cu128`.
    """
    told = None
    for name, version in packages:
        if _RUNTIME.fullmatch(name):
            return Cuda(version=".".join(version.split(".")[:2]), package=f"{name} {version}")
        local = re.search(r"\+cu(\d+)(\d)$", version) if name == "torch" else None
        if local is not None:
            told = Cuda(version=f"{local[1]}.{local[2]}", package=f"{name} {version}")
    return told


def driver_version(kernel_module: Path = _KERNEL_MODULE) -> str | None:
    """Return the version of this machine's NVIDIA driver, None where there is none or it cannot be told.

    The kernel module says it, else the name of the driver's library, else `nvidia-smi`.
    """
    try:
        said = _NUMBER.search(kernel_module.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        said = None
    if said is None and (driver := find_driver()) is not None:
        files = (Path(path).name for name, path in driver.libraries if name == "libcuda.so.1")
        said = _NUMBER.search(next(files, ""))
    return said[0] if said is not None else observe().driver


def check_driver(packages: Iterable[tuple[str, str]], driver: str | None, image_env: Mapping[str, str]) -> str | None:
    """Make sure that a training with these packages can use a GPU behind this driver; return what to warn of, if any.

    Raises EngineError when the driver is too old for their CUDA. What cannot be told is not judged.
    """
    listed = list(packages)
    torch = dict(listed).get("torch", "")
    if torch.endswith("+cpu"):
        return f"GPUs are asked for, but torch {torch} is built without CUDA and will train on the CPU"
    cuda = cuda_of(listed)
    oldest = OLDEST_DRIVER.get(int(cuda.version.partition(".")[0])) if cuda is not None else None
    if cuda is None or oldest is None or driver is None or any(name in image_env for name in _COMPATIBILITY):
        return None
    if _ordered(driver) < _ordered(oldest):
        major = cuda.version.partition(".")[0]
        fitting = [f"CUDA {known}" for known, least in OLDEST_DRIVER.items() if _ordered(least) <= _ordered(driver)]
        raise EngineError(
            f"NVIDIA's driver {driver} is too old for CUDA {cuda.version}, which {cuda.package} brings",
            details=(
                f"CUDA {major} needs driver {oldest} or later",
                f"driver {driver} serves {fitting[-1] if fitting else 'no CUDA from 11 on'}",
            ),
            hint="update the driver; or lock wheels for an older CUDA (such as UV_TORCH_BACKEND=cu126, where torch has "
            "them); or train on the CPU with --gpus none",
        )
    return None


def _ordered(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
