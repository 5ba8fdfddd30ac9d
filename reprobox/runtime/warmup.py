"""Calls MKL's vector functions once, before several threads can: which of its kernels they use is settled by a race.

torch computes these operators on a CPU by MKL's vector mathematics, each thread its own part of a tensor. MKL 2024.2,
which torch's wheels for x86-64 hold, looks up the processor at the first such call of a process and keeps the result in
one variable for all of them: first in another numbering (9 for AVX-512), at once after that in its own (5). A thread
that reads it in between takes another kernel for its part, the least accurate one for AVX2, and no second call shows it
again. The fault is https://github.com/pytorch/pytorch/issues/188792; the cause was read in `mkl_vml_serv_cpu_detect` of
torch 2.13.0, and `benchmarks/mkl_first_calls.py` shows both the fault and its end.

That one call of any function would do is this MKL's own affair, so each is called, with one element, which is computed
in the calling thread. No random number is drawn and none of torch's settings is touched. Children that a process forks
inherit what its first call settled.
"""

from __future__ import annotations

from typing import Any

# IMPLEMENT_VML_MKL in torch 2.13.0's aten/src/ATen/cpu/vml.h; MKL is linked with no others (`nm libtorch_cpu.so`).
VECTOR_FUNCTIONS = (
    "acos",
    "asin",
    "atan",
    "cos",
    "erf",
    "erfc",
    "erfinv",
    "exp",
    "log",
    "log10",
    "log2",
    "sin",
    "sqrt",
    "tan",
    "tanh",
    "trunc",
)


def call_vector_functions(torch: Any) -> None:
    """Call each vector function on one number, in both precisions. Does nothing where torch has no MKL."""
    if not torch.backends.mkl.is_available():
        return
    for dtype in (torch.float32, torch.float64):
        number = torch.full((1,), 0.5, dtype=dtype, device="cpu")
        for name in VECTOR_FUNCTIONS:
            getattr(torch, name)(number)
