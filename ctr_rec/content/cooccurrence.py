"""`ctr-rec content cooccurrence`: item vectors from which items the same users met, learnt on the training range.

For logs whose items have no text. What is counted: two different items at most `window` events apart in one user's
events, in time order. The counts' positive pointwise mutual information is factorised by a truncated singular value
decomposition, vectors are U sqrt(S) (Levy and Goldberg, *Neural Word Embedding as Implicit Matrix Factorization*, NIPS
2014, section 4, with one negative sample, that is, without their shift). Neither labels nor actions are read, so no
vector knows how an impression of the training range ended.

Legend: M items of the log, D width.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from rich.console import Console

from ctr_rec.batch.parquet import Frame, Place, open_parquet
from ctr_rec.content.write import write_vectors
from ctr_rec.errors import ConfigError
from ctr_rec.files import join_path
from ctr_rec.prepare.progress import Progress
from ctr_rec.schema.content import ITEM_ID, ContentInfo
from ctr_rec.schema.manifest import LogManifest, load_manifest

Int64 = npt.NDArray[np.int64]


def content_cooccurrence(
    log: Path,
    out: Path,
    dim: int = 64,
    window: int = 10,
    seed: int = 0,
    console: Console | None = None,
    progress: Progress | None = None,
) -> None:
    """Writes FILE.parquet and FILE.json with a vector for every item of the training range that has company there.

    log: a prepared log; its events after the training range are not counted. seed: of the decomposition's first vector.

    Raises:
        DataError: no prepared log. ConfigError: fewer items in the training range than the vectors are wide.
    """
    console = console or Console()
    manifest = load_manifest(log)
    begun = time.monotonic()
    counts = _empty(manifest.items)
    with (progress or Progress()).stage("count pairs", manifest.events) as advance:
        for item, user in training_events(log, manifest):
            counts = counts + pair_counts(item, user, manifest.items, window)
            advance(len(item))
    met = np.flatnonzero(np.asarray(counts.sum(axis=1)).reshape(-1))
    if len(met) <= dim:
        raise ConfigError(
            f"{log}: {len(met)} items have company in the training range, which is too few for vectors of {dim} "
            "numbers; give a smaller --dim, or a longer training range"
        )
    vectors = factorised(information(counts[met][:, met]), dim, seed)
    ids = open_parquet(join_path(log, "items", "items.parquet")).read([ITEM_ID]).column(ITEM_ID).combine_chunks()
    info = ContentInfo(
        method="cooccurrence",
        model=f"cooccurrence in {manifest.data_schema.name} {manifest.fingerprint[:16]}, window {window}, seed {seed}",
        settings={"log": manifest.fingerprint, "window": window, "dim": dim, "seed": seed},
        trained_from=manifest.time_range[0],
        trained_until=manifest.split.train_end,
        time_unit=manifest.data_schema.time_unit,
    )
    write_vectors(out, ids.take(pa.array(met)), vectors, info)
    console.print(
        f"{len(met):,} of {manifest.items:,} items in {time.monotonic() - begun:.0f} s, {dim} numbers each, learnt "
        f"from times up to {manifest.split.train_end}: {out}",
        highlight=False,
        soft_wrap=True,
    )


def training_events(log: Path, manifest: LogManifest) -> Iterator[tuple[Int64, Int64]]:
    """(item, user) of the events up to the end of the training range, a row group at a time, by user and time."""
    for group in manifest.row_groups:
        path = join_path(log, group.file)
        frame = Frame(open_parquet(path), Place(path, group.index), ["time", "item"])
        times, offsets = frame.lists("time", np.int64)
        items, _ = frame.lists("item", np.integer)
        user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        known = times <= manifest.split.train_end
        yield items[known].astype(np.int64), user[known]


def pair_counts(item: Int64, user: Int64, num_items: int, window: int):
    """How often two different items lie at most `window` places apart within a user. Symmetric, sparse [M, M]."""
    counts = _empty(num_items)
    for apart in range(1, window + 1):
        first, second = item[:-apart], item[apart:]
        pair = (user[:-apart] == user[apart:]) & (first != second)
        counts = counts + _ones(first[pair], second[pair], num_items)
    return counts + counts.T


def _empty(num_items: int):
    from scipy.sparse import csr_array

    return csr_array((num_items, num_items), dtype=np.float64)


def _ones(row: Int64, column: Int64, num_items: int):
    from scipy.sparse import coo_array

    return coo_array((np.ones(len(row)), (row, column)), shape=(num_items, num_items)).tocsr()


def information(counts_MM):
    """Positive pointwise mutual information log(c_ij c / (c_i c_j)), 0 where it is negative. Sparse [M, M]."""
    pairs = counts_MM.tocoo()
    each = np.asarray(counts_MM.sum(axis=1)).reshape(-1)
    told = np.log(pairs.data * each.sum() / (each[pairs.row] * each[pairs.col]))
    pairs.data = np.maximum(told, 0.0)
    return pairs.tocsr()


def factorised(matrix_MM, dim: int, seed: int) -> npt.NDArray[np.float64]:
    """U sqrt(S) of the truncated singular value decomposition, [M, D]; the same to the bit for one seed.

    Each column's sign is such that its largest entry in magnitude is positive.
    """
    from scipy.sparse.linalg import svds
    from threadpoolctl import threadpool_limits

    start = np.random.default_rng(seed).normal(size=matrix_MM.shape[0])
    with threadpool_limits(1):
        left_MD, values_D, _ = svds(matrix_MM, k=dim, v0=start)
    order = np.argsort(-values_D, kind="stable")
    assert left_MD is not None, "both sides are asked for"
    left_MD = left_MD[:, order]
    largest = left_MD[np.abs(left_MD).argmax(axis=0), np.arange(dim)]
    return left_MD * np.where(largest < 0, -1.0, 1.0) * np.sqrt(values_D[order])
