"""Sets torch's determinism switches and reads back what was in force at the end. Reasons: docs/determinism.md."""

from __future__ import annotations

import os
from typing import Any, Callable

# Set by the host before the process starts, because the libraries read them once, when they load.
ENVIRONMENT = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_DYNAMIC",
    "CUBLAS_WORKSPACE_CONFIG",
    "NCCL_ALGO",
    "NCCL_PROTO",
    "TORCHINDUCTOR_DETERMINISTIC",
    "PYTHONHASHSEED",
)


def apply(torch: Any, deterministic: bool, threads: int | None = None) -> None:
    """Switch torch to deterministic algorithms, or to its fast ones; compute with `threads` threads in either mode.

    Memory is not filled in deterministic mode: filling finds reads of uninitialised memory, changes no result of a
    correct program, and costs most of what determinism is said to cost.
    """
    if threads and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    if not deterministic:
        torch.backends.cudnn.deterministic = False
        torch.backends.cudnn.benchmark = True
        return
    _use_deterministic_algorithms(torch)
    if hasattr(torch.utils, "deterministic"):
        torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    # Precision is pinned where the environment or another version of torch has it otherwise. A value that is as it
    # should be is left alone: torch refuses programs that mix its two interfaces to these switches.
    if _read(torch.get_float32_matmul_precision) != "highest":
        torch.set_float32_matmul_precision("highest")
    if _read(lambda: torch.backends.cudnn.allow_tf32) is False:
        torch.backends.cudnn.allow_tf32 = True
    if hasattr(torch.backends.cuda, "enable_cudnn_sdp"):
        torch.backends.cuda.enable_cudnn_sdp(False)
    if hasattr(torch.backends.mkldnn, "deterministic"):
        torch.backends.mkldnn.deterministic = True


def _use_deterministic_algorithms(torch: Any) -> None:
    """Do what `torch.use_deterministic_algorithms(True)` does, without its second of imports.

    Since torch 2.9 the public function loads the inductor, over 800 modules, to set one flag in its configuration. The
    host sets that flag by TORCHINDUCTOR_DETERMINISTIC, which the inductor reads if it is ever loaded.
    """
    switch = getattr(torch._C, "_set_deterministic_algorithms", None)
    if switch is None:
        torch.use_deterministic_algorithms(True)
    else:
        switch(True, warn_only=False)


def effective(torch: Any) -> dict[str, Any]:
    """Return the switches as they stand now, after whatever the user's program did to them.

    None stands for one that this torch does not have, or that it refuses to tell because the program set it by both of
    torch's interfaces.
    """
    backends = torch.backends
    readers: dict[str, Callable[[], Any]] = {
        "use_deterministic_algorithms": torch.are_deterministic_algorithms_enabled,
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled,
        "fill_uninitialized_memory": lambda: torch.utils.deterministic.fill_uninitialized_memory,
        "cudnn_deterministic": lambda: backends.cudnn.deterministic,
        "cudnn_benchmark": lambda: backends.cudnn.benchmark,
        "cudnn_allow_tf32": lambda: backends.cudnn.allow_tf32,
        "matmul_allow_tf32": lambda: backends.cuda.matmul.allow_tf32,
        "matmul_fp32_precision": lambda: backends.cuda.matmul.fp32_precision,
        "float32_matmul_precision": torch.get_float32_matmul_precision,
        "matmul_bf16_reduced_precision": lambda: backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
        "matmul_fp16_reduced_precision": lambda: backends.cuda.matmul.allow_fp16_reduced_precision_reduction,
        "preferred_blas": lambda: str(backends.cuda.preferred_blas_library()).rpartition(".")[2],
        "sdp_flash": lambda: backends.cuda.flash_sdp_enabled(),
        "sdp_memory_efficient": lambda: backends.cuda.mem_efficient_sdp_enabled(),
        "sdp_cudnn": lambda: backends.cuda.cudnn_sdp_enabled(),
        "mkldnn_deterministic": lambda: backends.mkldnn.deterministic,
        "intraop_threads": torch.get_num_threads,
        "interop_threads": torch.get_num_interop_threads,
        "cpu_capability": lambda: backends.cpu.get_cpu_capability(),
        "default_dtype": lambda: str(torch.get_default_dtype()).replace("torch.", ""),
    }
    flags = {name: _read(reader) for name, reader in readers.items()}
    for name in ENVIRONMENT:
        flags[name] = os.environ.get(name)
    return flags


def _read(reader: Callable[[], Any]) -> Any:
    try:
        return reader()
    except Exception:
        return None
