"""What this process was, for the manifest: versions, effective switches, GPUs. Asks nothing that would wake up CUDA."""

from __future__ import annotations

import platform
import sys
from typing import Any

from . import determinism


def software() -> dict[str, str | None]:
    """Return the versions of Python and, where the program loaded them, of torch, CUDA, cuDNN, NCCL and NumPy."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        found["numpy"] = numpy.__version__
    torch = sys.modules.get("torch")
    if torch is not None:
        found.update(_torch_versions(torch))
    return found


def _torch_versions(torch: Any) -> dict[str, str | None]:
    import hashlib

    found: dict[str, str | None] = {
        "torch": str(torch.__version__),
        "torch_git": torch.version.git_version,
        "torch_build": "sha256:" + hashlib.sha256(torch.__config__.show().encode()).hexdigest(),
        "cuda": torch.version.cuda,
    }
    if torch.cuda.is_available():
        cudnn = torch.backends.cudnn.version()
        found["cudnn"] = None if cudnn is None else str(cudnn)
        if torch.distributed.is_available() and torch.distributed.is_nccl_available():
            found["nccl"] = ".".join(str(part) for part in torch.cuda.nccl.version())
    return found


def gpus() -> list[dict[str, Any]]:
    """Return name, compute capability and multiprocessor count of each GPU that the program used."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return []
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append(
            {
                "name": properties.name,
                "compute_capability": "%d.%d" % (properties.major, properties.minor),
                "multiprocessors": properties.multi_processor_count,
            }
        )
    return found


def flags() -> dict[str, Any]:
    """Return the effective determinism switches, or nothing when torch was not imported."""
    torch = sys.modules.get("torch")
    return {} if torch is None else determinism.effective(torch)
