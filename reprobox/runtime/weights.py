"""The cryptographic digest of a list of tensors: what the training arrived at, to the bit."""

from __future__ import annotations

import ctypes
from typing import Any, Iterable

CHUNK_BYTES = 1 << 24


def digest_tensors(tensors: Iterable[Any]) -> str:
    """Return `sha256:` over shape, dtype and bytes of each tensor in order (row-major, little-endian as in memory)."""
    import hashlib

    digest = hashlib.sha256()
    for tensor in tensors:
        value = tensor.detach().cpu().contiguous()
        digest.update(("%s %s\n" % (tuple(value.shape), value.dtype)).encode())
        size = value.numel() * value.element_size()
        start = value.data_ptr()
        # Straight from memory, without NumPy, which the user's environment may not hold.
        for offset in range(0, size, CHUNK_BYTES):
            length = min(CHUNK_BYTES, size - offset)
            digest.update((ctypes.c_char * length).from_address(start + offset))
    return "sha256:" + digest.hexdigest()
