"""Large arrays in memory that is used again: the first use of fresh memory costs more than what is then done with it.

The system hands out zeroed pages one by one, at a microsecond or more each, and takes them back as soon as a large
array is gone. NumPy asks for large pages where one array is large, so all arrays of a buffer lie in one.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ctr_rec.batch.columns import Array

LINE = 64
"""Bytes of a cache line, to which arrays are aligned."""


class Memory:
    """Gives out arrays; takes their memory back by itself once nobody holds an array or a tensor on it."""

    def __init__(self) -> None:
        self._blocks: list[npt.NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    def arrays(self, wanted: Mapping[str, tuple[npt.DTypeLike, int]]) -> dict[str, Array]:
        """Arrays of these types and lengths, by name. Contents are whatever the last user left."""
        sizes = {name: -(-np.dtype(dtype).itemsize * count // LINE) * LINE for name, (dtype, count) in wanted.items()}
        with self._lock:
            block = self._block(sum(sizes.values()))
        found, at = {}, 0
        for name, (dtype, count) in wanted.items():
            found[name] = block[at : at + np.dtype(dtype).itemsize * count].view(dtype)
            at += sizes[name]
        return found

    def _block(self, size: int) -> npt.NDArray[np.uint8]:
        """A view of `size` bytes. Every array and tensor on a block holds a reference to it, so their number tells."""
        free = [i for i in range(len(self._blocks)) if sys.getrefcount(self._blocks[i]) == 2]  # the list and the call
        for i in free:
            if len(self._blocks[i]) >= size:
                return self._blocks[i][:size]
        for i in reversed(free):
            del self._blocks[i]
        self._blocks.append(np.empty(size + LINE, np.uint8))
        return self._blocks[-1][:size]
