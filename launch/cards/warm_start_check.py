"""Are the vectors of a warm start those of the old model, id by id? On any number of ranks, with no code of its own.

    ctr-rec convert OLD_RUN/checkpoints/step-00000194 --to parquet --out OLD_PARQUET
    python -m torch.distributed.run --nproc-per-node 4 -m launch.cards.warm_start_check OLD_RUN OLD_PARQUET

The truth is read from the Parquet files by id, projected by the stated matrix, and compared with the rows that a fresh
HSTU of width 32 holds on each rank after its warm start. Prints a line per table, the same on any number of ranks.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import click
import numpy as np
import pyarrow.parquet as pq
import torch

from ctr_rec.checkpoint.warm_start.widths import project, projection
from ctr_rec.config import load_recipe, override
from ctr_rec.sharding.group import Group, open_group
from ctr_rec.sharding.tables import local_shards
from ctr_rec.train.build import Built, build
from ctr_rec.train.run import Run
from ctr_rec.train.warm_start import fill_tables

RECIPE = "launch/recipes/movielens.py:hstu_warm"


def old_vectors(folder: Path, table: str) -> dict[str, np.ndarray]:
    """float32 vector by raw id, of a converted checkpoint."""
    files = (
        [folder / f"{table}.parquet"] if (folder / f"{table}.parquet").is_file() else (folder / table).glob("*.parquet")
    )
    found: dict[str, np.ndarray] = {}
    for file in files:
        rows = pq.read_table(file, columns=["id", "vector"])
        vectors = np.stack(rows["vector"].to_numpy())
        found.update(zip(rows["id"].to_pylist(), vectors, strict=True))
    return found


def own_ids(log: str, table: str, rows: int) -> list[str | None]:
    """Raw id of each row of our log's vocabulary; None for row 0."""
    vocabulary = pq.read_table(Path(log) / "vocabulary" / f"{table}.parquet", columns=["id", "row"])
    ids: list[str | None] = [None] * rows
    for text, row in zip(vocabulary["id"].to_pylist(), vocabulary["row"].to_pylist(), strict=True):
        if row > 0:
            ids[row] = text
    return ids


def check(built: Built, parquet: Path, table: str, group: Group) -> str:
    """One line: ids matched, the largest difference, and a digest of the whole table."""
    truth = old_vectors(parquet, table)
    spec = built.spec.table(table)
    ids = own_ids(built.run.data.log, table, spec.rows)
    matrix_SD = projection(len(next(iter(truth.values()))), spec.dim, 0)
    worst, matched, held = 0.0, 0, np.zeros((0, spec.dim + 1))
    for shard in (s for s in local_shards(built.parallel.model) if s.table == table):
        assert shard.offset[1] == 0, "column-wise pieces are not compared here"
        first = shard.offset[0]
        mine = shard.weight.numpy()
        known = [r for r in range(len(mine)) if ids[first + r] in truth]
        if known:
            stored = torch.from_numpy(np.stack([truth[str(ids[first + r])] for r in known]))
            worst = max(worst, float(np.abs(project(stored, matrix_SD).numpy() - mine[known]).max()))
        matched += len(known)
        held = np.concatenate([held, np.column_stack([np.arange(first, first + len(mine)), mine])])
    every = group.gather_arrays(held)
    whole = every[np.argsort(every[:, 0])][:, 1:].astype(np.float32)
    totals = group.gather_arrays(np.array([[matched, worst]]))
    digest = hashlib.sha256(np.ascontiguousarray(whole).tobytes()).hexdigest()[:16]
    shown = (
        f"{table}: {len(whole)} rows, {int(totals[:, 0].sum())} ids matched, largest difference {totals[:, 1].max():g}"
    )
    return f"{shown}, sha256 {digest}"


@click.command()
@click.argument("old_run", type=click.Path(path_type=Path))
@click.argument("old_parquet", type=click.Path(path_type=Path))
def main(old_run: Path, old_parquet: Path) -> None:
    """Warm-start HSTU from OLD_RUN and compare it with OLD_PARQUET, its converted tables."""
    run = override(load_recipe(RECIPE, Run), [f"warm_start.source={old_run}"])
    with open_group("cpu") as group:
        built = build(run, group)
        assert run.warm_start is not None
        fill_tables(run.warm_start, built)
        lines = [check(built, old_parquet, t.name, group) for t in built.spec.tables]
        if group.is_main:
            print(f"{group.size} rank(s)\n" + "\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
