"""A record of every impression that was trained on: proof that none is lost or seen twice over stops and resumes.

An id belongs to the log of its step; where a run grew onto another log, growth.jsonl says which that is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

_PAIR = np.dtype([("step", "<i8"), ("impression", "<i8")])


class SeenImpressions:
    """Appends (step, impression id) pairs to one file per rank below `folder`."""

    def __init__(self, folder: Path, rank: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"rank-{rank:05d}.bin").open("ab")

    def add(self, step: int, impression_ids: np.ndarray) -> None:
        pairs = np.empty(len(impression_ids), _PAIR)
        pairs["step"] = step
        pairs["impression"] = impression_ids
        self._file.write(pairs.tobytes())

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_seen(folder: Path) -> np.ndarray:
    """All recorded pairs, as a structured array (step, impression); a pair cut short by a kill is left out."""
    parts = []
    for path in sorted(folder.glob("rank-*.bin")):
        raw = path.read_bytes()
        parts.append(np.frombuffer(raw[: len(raw) // _PAIR.itemsize * _PAIR.itemsize], _PAIR))
    return np.concatenate(parts) if parts else np.empty(0, _PAIR)


def forget_seen_after(folder: Path, step: int) -> None:
    """Drops pairs of later steps than the checkpoint that training goes on from."""
    for path in sorted(folder.glob("rank-*.bin")):
        raw = path.read_bytes()
        pairs = np.frombuffer(raw[: len(raw) // _PAIR.itemsize * _PAIR.itemsize], _PAIR)
        partial = path.with_suffix(".partial")
        partial.write_bytes(pairs[pairs["step"] <= step].tobytes())
        partial.replace(path)
