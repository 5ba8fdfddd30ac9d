"""64-bit digests of gradients, weights and random states, computed where the tensors lie without waiting for them.

The digest of a list of tensors is a sum of their raw bits, as words of at most 32 bits, each times an odd 64-bit weight
of its own: every operation wraps modulo 2^64, so the order of the additions does not matter. An odd weight has an
inverse, so one changed word always shows; two changes cancel out with a probability of 2^-32 or less. (Words of 64 bits
would not do: any odd number times the highest bit is the highest bit, so that two changed signs would always cancel.)
It finds accidents, it does not withstand forgery.
"""

from __future__ import annotations

import ctypes
import zlib
from typing import Any, Iterable, Iterator

# Elements weighted at a time: bounds the memory that a digest takes (two tensors of 8 bytes an element), so that it
# stays in the cache: a large GPU's, or one CPU core's, whose training loses little of it (measured on 85,000 parameters
# right after a step: 300 us, against 430 with four times that).
CHUNK = 1 << 21
CPU_CHUNK = 1 << 14
# Tensors of at most that many elements are joined before they are weighted.
SMALL = 1 << 14
_ALL = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX = 0xBF58476D1CE4E5B9
_ELEMENT, _PART = 0, 1 << 40  # where the weights of elements and those of whole chunks begin to be counted


class Digester:
    """Digests lists of tensors; keeps the weights on each device, as long as the largest tensor there needs them."""

    def __init__(self, torch: Any) -> None:
        """Allocate nothing yet."""
        self._torch = torch
        self._weights: dict[tuple[Any, int], Any] = {}
        self._words = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int32}

    def of(self, tensors: Iterable[Any]) -> list[Any]:
        """Return what adds up, modulo 2^64, to the digest: an integer, and a 0-dimensional int64 tensor a device.

        The digest depends on every bit, on dtype, shape and order of the tensors and on the place of each element.
        None stands for a tensor that is not there. Nothing here waits for a device.
        """
        torch = self._torch
        rows: dict[Any, list[Any]] = {}
        small: dict[Any, list[Any]] = {}
        sizes = 0
        with torch.no_grad():
            for tensor in _parts(tensors):
                if tensor is None:
                    sizes = (sizes * _MIX) & _ALL
                    continue
                # What it is, and not its bits alone.
                kind = zlib.crc32(("%s %s" % (tensor.dtype, tuple(tensor.shape))).encode())
                sizes = (sizes * _MIX + (kind + 1) * _GOLDEN) & _ALL
                words = self._bits(tensor)
                size = words.numel()
                if size <= SMALL:
                    small.setdefault((words.device, words.dtype), []).append(words)
                    continue
                rows.setdefault(words.device, []).extend(words.split(_chunk(words.device)))
            # Many small tensors are one row: what costs is the number of operations.
            for (device, _), pieces in small.items():
                joined = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
                whole = joined.numel() <= _chunk(device)
                rows.setdefault(device, []).extend((joined,) if whole else joined.split(_chunk(device)))
            sums = [self._total(row) for row in rows.values()]
        return [sizes, *sums]

    def _total(self, row: list[Any]) -> Any:
        sums = [self._sum(words, _ELEMENT) for words in row]
        return sums[0] if len(sums) == 1 else self._sum(self._torch.stack(sums), _PART)

    def _bits(self, tensor: Any) -> Any:
        """Return the raw bits of a dense tensor as one row of integers."""
        torch = self._torch
        value = tensor.resolve_conj().resolve_neg()
        if value.is_complex():
            value = torch.view_as_real(value)
        return value.reshape(-1).view(self._words[value.element_size()])

    def _sum(self, words: Any, first: int) -> Any:
        """Return the weighted sum of a row."""
        weight = self._weight(words.device, words.numel(), first)
        if words.is_cpu:
            return self._torch.dot(words.long(), weight)  # a third faster; only CPUs have it for integers
        return (words * weight).sum()  # promotes the words to int64 without a copy of them

    def _weight(self, device: Any, size: int, first: int) -> Any:
        known = self._weights.get((device, first))
        if known is None or known.numel() < size:
            torch = self._torch
            length = max(64, 1 << (size - 1).bit_length())
            mixed = (torch.arange(first + 1, first + length + 1, device=device, dtype=torch.int64)) * _signed(_GOLDEN)
            mixed = (mixed ^ (mixed >> 31)) * _signed(_MIX)
            known = self._weights[device, first] = (mixed ^ (mixed >> 29)) | 1
        return known[:size]


def _parts(tensors: Iterable[Any]) -> Iterator[Any]:
    """Yield the dense tensors that tensors are made of: of a sparse one where its values are, and these."""
    for tensor in tensors:
        if tensor is None:
            yield None
            continue
        value = tensor.detach()
        if hasattr(value, "to_local"):
            value = value.to_local()  # a tensor spread over processes: each digests what it holds
        layout = str(value.layout)
        if layout == "torch.sparse_coo":
            yield from (value._indices(), value._values())
        elif layout in ("torch.sparse_csr", "torch.sparse_bsr"):
            yield from (value.crow_indices(), value.col_indices(), value.values())
        elif layout in ("torch.sparse_csc", "torch.sparse_bsc"):
            yield from (value.ccol_indices(), value.row_indices(), value.values())
        elif layout != "torch.strided":
            yield value._values()
        else:
            yield value


def _chunk(device: Any) -> int:
    return CPU_CHUNK if device.type == "cpu" else CHUNK


def combined(values: Iterable[Any]) -> str:
    """Return the digest as 16 hex digits, given the sums of all devices as host tensors or integers."""
    return "%016x" % (sum(int(value) for value in values) & _ALL)


def random_state(torch: Any) -> str:
    """Return a digest of the state of torch's generators: the CPU's, and those of CUDA if the program uses it.

    CUDA generators keep seed and offset on the host, so asking them does not wait for the device.
    """
    import hashlib

    digest = hashlib.blake2b(digest_size=8)
    states = [torch.default_generator.get_state()]
    cuda = getattr(torch, "cuda", None)
    if cuda is not None and cuda.is_initialized():
        states += [generator.get_state() for generator in cuda.default_generators]
    for state in states:
        digest.update((ctypes.c_char * state.numel()).from_address(state.data_ptr()))
    return digest.hexdigest()


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number
