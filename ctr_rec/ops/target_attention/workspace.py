"""Scratch memory that outlives a call.

Why: the buffers of one backward are 100 MB and more. Asked for afresh in every step they cost a page fault for each
4 kB, 36 ms for 71 MB where writing the same buffer again takes 4, which is more than the arithmetic done in it.
"""

import threading
from typing import NamedTuple

import torch
from torch import Tensor

MAX_HELD_BYTES = 1 << 30
"""Free memory kept for later calls; what is given back beyond it returns to the system."""


class Lease(NamedTuple):
    """A taken buffer: `tensor` is what to use, `flat` the memory under it."""

    tensor: Tensor
    flat: Tensor


class Workspace:
    """A pool of flat CPU buffers. A taken buffer belongs to the taker alone until it is given back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[Tensor] = []

    def take(self, rows: int, width: int, dtype: torch.dtype) -> Lease:
        """An uninitialised [rows, width] tensor, from a free buffer where one is large enough."""
        num_bytes = rows * width * dtype.itemsize
        # Memory made in inference mode could never be written outside of it, and this buffer moves between both.
        with torch.inference_mode(False):
            flat = self._best_fit(num_bytes)
            if flat is None:
                flat = torch.empty(_rounded(num_bytes), dtype=torch.uint8)
            return Lease(flat[:num_bytes].view(dtype).view(rows, width), flat)

    def give(self, lease: Lease) -> None:
        """Return a buffer; the caller must not use it again."""
        with self._lock:
            if self.held_bytes() + lease.flat.numel() <= MAX_HELD_BYTES:
                self._free.append(lease.flat)

    def held_bytes(self) -> int:
        return sum(flat.numel() for flat in self._free)

    def _best_fit(self, num_bytes: int) -> Tensor | None:
        with self._lock:
            fitting = [i for i, flat in enumerate(self._free) if num_bytes <= flat.numel() <= 4 * num_bytes]
            if fitting:
                return self._free.pop(min(fitting, key=lambda i: self._free[i].numel()))
            # The buffer about to be made replaces the nearest one that proved too small, so the pool cannot pile up.
            smaller = [i for i, flat in enumerate(self._free) if flat.numel() < num_bytes <= 4 * flat.numel()]
            if smaller:
                self._free.pop(max(smaller, key=lambda i: self._free[i].numel()))
            return None


def _rounded(num_bytes: int) -> int:
    """A quarter of a power of two upwards: batches differ a little in pairs and should share a buffer."""
    step = max(1 << max(num_bytes.bit_length() - 3, 0), 4096)
    return -(-num_bytes // step) * step


WORKSPACE = Workspace()
