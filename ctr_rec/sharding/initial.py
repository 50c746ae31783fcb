"""Initial values of tables as a function of (seed, table, number of the row), whatever the plan and the ranks.

The number of a row is what a `RowNumbers` says: the stated hash of the row's id where a log has a vocabulary (so an id
starts alike in every log, at whatever row), the row itself where nothing else is known.

TorchRec's own `init_fn` sees the local slice only: with one seed every row-wise shard would start alike, and the start
would depend on the plan. Here each row's values come from a counter-based generator (SplitMix64: Steele, Lea, Flood,
2014, "Fast Splittable Pseudorandom Number Generators"), so any slice can be written by itself, in any order. Normal
values are read from a table of 2^16 quantiles: no logarithm or cosine, whose last bit differs between devices and
vector widths, takes part. Legend: R rows, D width.
"""

from __future__ import annotations

import hashlib
from functools import cache
from statistics import NormalDist
from typing import Protocol

import numpy as np

# Draws of one counter: a 64-bit word is cut into four 16-bit quantile numbers.
PER_WORD = 4
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
WORDS_PER_SLICE = 1 << 16


class RowNumbers(Protocol):
    """What stands for the rows first, first + 1, ..., stop - 1 of a table: whole numbers of at most 64 bits, [R]."""

    def __call__(self, table: str, first: int, stop: int) -> np.ndarray: ...


def by_row(table: str, first: int, stop: int) -> np.ndarray:
    """Every row stands for itself, in every table."""
    return np.arange(first, stop)


@cache
def _quantiles() -> np.ndarray:
    """float32[65536]: the standard normal at (i + 1/2) / 65536, rescaled to variance one; the largest is 4.3."""
    normal = NormalDist()
    half = np.array([normal.inv_cdf((i + 0.5) / 65536) for i in range(32768, 65536)])
    whole = np.concatenate([-half[::-1], half])
    return (whole / np.sqrt(np.mean(whole**2))).astype(np.float32)


def stream_key(seed: int | str, table: str) -> np.uint64:
    """Where a table's stream begins; a hash, so that neighbouring seeds share nothing."""
    digest = hashlib.blake2b(f"{seed}/{table}".encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def _mix(counter: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: uint64 -> uint64, in place."""
    z = counter
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def normal_rows(seed: int | str, table: str, rows_R: np.ndarray, dim: int, std: float) -> np.ndarray:
    """Initial values of some rows of a table.

    Args:
        seed: of the run. table: its name.
        rows_R: numbers of the rows, see `RowNumbers`; int64[R] or uint64[R]. Counters are taken modulo 2^64: among
            10^8 hashed ids of width 16, some two start alike in one table of a thousand.
        dim: width of the whole table, also where the caller keeps some columns only.
        std: standard deviation.

    Returns:
        float32[R, dim], normal with mean 0, cut at 4.3 standard deviations.
    """
    words = -(-dim // PER_WORD)
    key = stream_key(seed, table)
    out_RD = np.empty((len(rows_R), dim), dtype=np.float32)
    scaled = _quantiles() * np.float32(std)
    step = max(1, WORDS_PER_SLICE // words)
    columns = np.arange(words, dtype=np.uint64)
    for start in range(0, len(rows_R), step):
        rows = rows_R[start : start + step].astype(np.uint64)
        counter = (rows * np.uint64(words))[:, None] + columns
        counter += np.uint64(1)
        counter *= GOLDEN
        counter += key
        lanes = _mix(counter).astype("<u8", copy=False).view("<u2")
        np.take(scaled, lanes[:, :dim], out=out_RD[start : start + step], mode="clip")
    return out_RD
