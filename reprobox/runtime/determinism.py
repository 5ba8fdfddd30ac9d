"""Sets torch's determinism switches and reads back what was in force at the end. Reasons: docs/determinism.md."""

from __future__ import annotations

import os
from typing import Any

# Set by the host before the process starts, because the libraries read them once, when they load.
ENVIRONMENT = ("OMP_NUM_THREADS", "MKL_DYNAMIC", "CUBLAS_WORKSPACE_CONFIG", "PYTHONHASHSEED")


def apply(torch: Any, deterministic: bool) -> None:
    """Switch torch to deterministic algorithms, or to its fast ones.

    Memory is not filled in deterministic mode: filling finds reads of uninitialised memory, changes no result of a
    correct program, and costs most of what determinism is said to cost.
    """
    if deterministic:
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
    else:
        torch.backends.cudnn.deterministic = False
        torch.backends.cudnn.benchmark = True


def effective(torch: Any) -> dict[str, Any]:
    """Return the switches as they stand now, after whatever the user's program did to them."""
    flags: dict[str, Any] = {
        "use_deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "fill_uninitialized_memory": bool(torch.utils.deterministic.fill_uninitialized_memory),
        "cudnn_deterministic": bool(torch.backends.cudnn.deterministic),
        "cudnn_benchmark": bool(torch.backends.cudnn.benchmark),
        "cudnn_allow_tf32": bool(torch.backends.cudnn.allow_tf32),
        "matmul_allow_tf32": bool(torch.backends.cuda.matmul.allow_tf32),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "intraop_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "default_dtype": str(torch.get_default_dtype()).replace("torch.", ""),
    }
    for name in ENVIRONMENT:
        flags[name] = os.environ.get(name)
    return flags
