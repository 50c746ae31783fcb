"""Semantic ids: residual k-means codes of content vectors, as categories of items with tables of their own.

Level l codes what the levels before it have left over: c_l = argmin_k |r_(l-1) - C_l[k]|, r_l = r_(l-1) - C_l[c_l],
with r_0 the content vector (residual k-means of QARM, arXiv 2411.11739). How many levels and centres is asked for; that
the first two codes together are one more id is our reading.

Legend: N items, L levels, K centres of a level, D width of a vector.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ctr_rec.errors import ConfigError, DataError
from ctr_rec.files import local_file
from ctr_rec.prepare.write import write_table
from ctr_rec.schema.log import Feature, Kind, Side, Vocabulary

Float64 = npt.NDArray[np.float64]
CENTRES = ("semantic_ids", "centres.parquet")  # below a prepared log
NONE = "none"  # the code of an item without a vector
NAME = "semantic_id"
SEED = 0
ROWS = 65_536  # items coded at a time


@dataclass(frozen=True)
class SemanticIds:
    """levels: codes per item. centres: values that a code can have."""

    levels: int
    centres: int

    @classmethod
    def parse(cls, text: str) -> SemanticIds:
        """From "3x256". Raises ConfigError for anything else."""
        found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
        if found is None:
            raise ConfigError(f"--semantic-ids: expected LEVELSxCENTRES such as 3x256, got {text!r}")
        return cls(int(found[1]), int(found[2]))

    def names(self) -> list[str]:
        """Of the features: one per level, and the first two together where there are two."""
        prefix = [f"{NAME}_1_2"] if self.levels > 1 else []
        return [*(f"{NAME}_{level}" for level in range(1, self.levels + 1)), *prefix]

    def features(self) -> tuple[Feature, ...]:
        """Categories of items, each with a table of its own name."""
        return tuple(Feature(name=n, kind=Kind.CATEGORY, side=Side.ITEM, table=n) for n in self.names())

    def vocabularies(self) -> tuple[Vocabulary, ...]:
        return tuple(Vocabulary(table=n) for n in self.names())

    def columns(self, codes_NL: npt.NDArray[np.int64], there_N: npt.NDArray[np.bool_]) -> list[pl.Series]:
        """The features' values; NONE where there is no vector."""
        texts = [pl.Series(codes_NL[:, level]).cast(pl.String) for level in range(self.levels)]
        if self.levels > 1:
            texts.append(texts[0] + "-" + texts[1])
        there = pl.Series(there_N)
        return [
            pl.select(pl.when(there).then(text).otherwise(pl.lit(NONE)).alias(name)).to_series()
            for name, text in zip(self.names(), texts, strict=True)
        ]


def fit(vectors_ND: npt.NDArray[np.floating], wanted: SemanticIds, seed: int = SEED) -> list[Float64]:
    """The centres [K, D] of each level, by k-means on what is left over. The same to the bit for one seed.

    Raises:
        ConfigError: fewer different vectors than centres.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    left_ND = vectors_ND.astype(np.float64)
    different = len(np.unique(left_ND, axis=0))
    if different < wanted.centres:
        raise ConfigError(
            f"--semantic-ids: {wanted.centres} centres need as many different vectors of items in the training range, "
            f"there are {different}; ask for fewer centres"
        )
    found = []
    with threadpool_limits(1):  # more threads add up in another order every time
        for level in range(wanted.levels):
            # "auto" is one start for the k-means++ that it starts with.
            centres_KD = KMeans(wanted.centres, n_init="auto", random_state=seed + level).fit(left_ND).cluster_centers_
            left_ND = left_ND - centres_KD[_nearest(left_ND, centres_KD)]
            found.append(centres_KD)
    return found


def assign(vectors_ND: npt.NDArray[np.floating], centres: Sequence[Float64]) -> npt.NDArray[np.int64]:
    """Codes of each vector, [N, L]; of centres equally near, the first."""
    left_ND = vectors_ND.astype(np.float64)
    codes = np.zeros((len(left_ND), len(centres)), np.int64)
    for level, centres_KD in enumerate(centres):
        codes[:, level] = _nearest(left_ND, centres_KD)
        left_ND = left_ND - centres_KD[codes[:, level]]
    return codes


def _nearest(vectors_ND: Float64, centres_KD: Float64) -> npt.NDArray[np.int64]:
    nearest = np.zeros(len(vectors_ND), np.int64)
    square_K = (centres_KD * centres_KD).sum(axis=1)
    for begin in range(0, len(vectors_ND), ROWS):
        some = vectors_ND[begin : begin + ROWS]
        nearest[begin : begin + ROWS] = (square_K - 2 * some @ centres_KD.T).argmin(axis=1)
    return nearest


def write_centres(log: Path, centres: Sequence[Float64]) -> None:
    """Keeps the centres in a prepared log, for logs that grow from it."""
    level = np.repeat(np.arange(len(centres)), [len(c) for c in centres])
    flat = pa.array(np.concatenate(centres).reshape(-1), pa.float64())
    vectors = pa.FixedSizeListArray.from_arrays(flat, centres[0].shape[1])
    write_table(log.joinpath(*CENTRES), pa.table({"level": pa.array(level, pa.int32()), "centre": vectors}))


def read_centres(log: Path, wanted: SemanticIds, dim: int) -> list[Float64]:
    """The centres that a log was coded with: codes keep their meaning in a log that grows from it.

    Raises:
        DataError: it has none, or others than are asked for.
    """
    path = log.joinpath(*CENTRES)
    if not path.is_file():
        raise DataError(f"{log} has no semantic ids to grow from; prepare without --semantic-ids, or without --grow")
    table = pq.read_table(local_file(path))
    levels, rows = len(table.column("level").unique()), table.num_rows
    width = table.schema.field("centre").type.list_size
    if (levels, rows, width) != (wanted.levels, wanted.levels * wanted.centres, dim):
        raise DataError(
            f"{log} has semantic ids {levels}x{rows // levels} of vectors of {width} numbers, asked for are "
            f"{wanted.levels}x{wanted.centres} of {dim}; codes would mean something else: ask for the same"
        )
    flat = table.column("centre").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return list(flat.reshape(levels, wanted.centres, width))
