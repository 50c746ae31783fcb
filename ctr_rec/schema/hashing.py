"""The stated hash of raw ids, from which rows of hashed tables follow on every machine and in every version.

hash64(id) is the 8-byte BLAKE2b digest of the id's UTF-8 text (integers in decimal), read as a little-endian unsigned
integer: stated by RFC 7693.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

UInt64 = npt.NDArray[np.uint64]


def hash64(ids: Iterable[str | int]) -> UInt64:
    """The stated hash of each id; meant for distinct ids (about a microsecond each)."""
    digests = b"".join(hashlib.blake2b(str(i).encode(), digest_size=8).digest() for i in ids)
    return np.frombuffer(digests, dtype="<u8")


def hashed_rows(ids: Iterable[str | int], rows: int, first: int = 1) -> npt.NDArray[np.int64]:
    """Row of each id in a table of `rows` hash buckets that begin at row `first`."""
    return first + (hash64(ids) % np.uint64(rows)).astype(np.int64)
