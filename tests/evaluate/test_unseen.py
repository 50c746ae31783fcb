"""Unseen ids, counted from a log's own columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from ctr_rec.batch.config import DataConfig, Packed
from ctr_rec.batch.reader import Reader
from ctr_rec.evaluate.unseen import unseen
from ctr_rec.schema.manifest import LogManifest
from ctr_rec.schema.table import EmbeddingSettings, SparseSpec, sparse_spec
from tests.prepare.raws import SPLIT, build, random_raw


def marked(log: Path, spec: SparseSpec, grown: bool) -> np.ndarray:
    """Ids of the training impressions with an unseen id."""
    reader = Reader(
        DataConfig(log=str(log), label="click", batches=Packed(tokens=300, context=9)), spec, "train", 0, grown=grown
    )
    return np.sort(torch.cat([b.impression_id[unseen(b)] for b in reader.batches(0)]).numpy())


def expected(log: Path, manifest: LogManifest, limit: dict[str, int]) -> list[int]:
    """limit: rows that the model has, by table."""
    tables = {n: pq.read_table(log / n / "part-00000.parquet").to_pylist() for n in ("events", "users")}
    items = pq.read_table(log / "items" / "items.parquet").to_pylist()
    found, number = [], 0

    def new(table: str, row: int) -> bool:
        return row == 0 or row >= limit[table]

    for events, user in zip(tables["events"], tables["users"], strict=True):
        for k, item in enumerate(events["item"]):
            thing = items[item]
            bad = new("country", user["country"]) or new("item", thing["thing"]) or new("page", events["page"][k])
            bad = bad or any(new("tag", t) for t in thing["tags"]) or any(new("word", w) for w in events["words"][k])
            if bad and events["impression"][k] and events["request_time"][k] <= manifest.split.train_end:
                found.append(number)
            number += 1
    return found


def test_rows_that_the_model_lacks_and_rare_ids_are_unseen(tmp_path: Path) -> None:
    manifest = build(random_raw(), tmp_path / "log", split=SPLIT)
    spec = sparse_spec(manifest, EmbeddingSettings(dim=4))
    sizes = {t.name: t.rows for t in spec.tables}
    whole = expected(tmp_path / "log", manifest, sizes)
    assert marked(tmp_path / "log", spec, grown=False).tolist() == whole
    smaller = {**sizes, "page": 3, "item": sizes["item"] - 5, "country": 3, "tag": 3}
    tables = tuple(t.model_copy(update={"rows": smaller[t.name]}) for t in spec.tables)
    less = spec.model_copy(update={"tables": tables})
    found = marked(tmp_path / "log", less, grown=True).tolist()
    assert found == expected(tmp_path / "log", manifest, smaller)
    assert len(whole) < len(found) < manifest.impressions[0]
