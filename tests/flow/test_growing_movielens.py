"""MovieLens-100K stretch by stretch: a run whose tables grow equals, id by id and to the bit, one that had all rows.

`pytest -s` prints the figures. Every id has a row here (min_count 1): an id that shares row 0 until it is frequent
enough trains that row, and no later row can take its part back.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import polars as pl
import pytest

from ctr_rec.config import override
from ctr_rec.prepare.recipe import load_data_recipe
from ctr_rec.schema.log import Split, Vocabulary
from ctr_rec.schema.manifest import load_manifest
from ctr_rec.train.run import Run
from tests.conftest import ROOT
from tests.flow.test_growing import compare, daily_run, prepare_days, prepare_whole, train_days, whole_checkpoint
from tests.ranks import run_ranks

TENTHS = (5, 6, 7, 8)  # of the ratings, at which training stops and goes on with the next log


def raw_files() -> Path:
    """Where data/movielens_100k/fetch.py or `make demo` put them. Skips where they are not."""
    shared = Path(os.environ.get("CTR_REC_DATA") or ROOT.parent / "shared" / "data")
    for folder in (shared / "movielens_100k", ROOT / "runs" / "raw" / "movielens_100k"):
        if folder.is_dir():
            return folder
    pytest.skip("no MovieLens-100K here; python data/movielens_100k/fetch.py runs/raw/movielens_100k fetches it")


def stretch(log: Path) -> Run:
    settings = ["data.label=liked", "data.buffer_row_groups=4", "embedding.dim=16", "train.epochs=1"]
    settings += ["data.batches.impressions=512", "embedding.exclude=[]", "embedding.tables={}"]
    return override(daily_run(log), settings)


@pytest.mark.parametrize("ranks", [2])
def test_movielens_grows_to_the_same_model(tmp_path: Path, ranks: int) -> None:
    recipe = load_data_recipe(ROOT / "data" / "movielens_100k")
    raw = recipe.read(raw_files())
    schema = recipe.schema.model_copy(
        update={"vocabularies": tuple(Vocabulary(table=v.table) for v in recipe.schema.vocabularies)}
    )
    times = raw.events.select(pl.col("time").sort()).collect()["time"]
    ends = [int(times[len(times) * tenth // 10]) for tenth in TENTHS]
    valid_end = int(times[len(times) * 9 // 10])
    days = [
        Split(train_start=start, train_end=end, valid_end=valid_end)
        for start, end in zip([None, *ends], ends, strict=False)
    ]
    grown_logs = prepare_days(raw, tmp_path / "grown-logs", schema, days, row_group_events=4_000)
    full_logs = prepare_whole(raw, tmp_path / "full-logs", schema, days, grown_logs[0], row_group_events=4_000)
    steps = run_ranks(train_days, ranks, [stretch(log) for log in grown_logs], tmp_path / "grown", timeout=600)
    full = run_ranks(train_days, ranks, [stretch(log) for log in full_logs], tmp_path / "full", timeout=600)
    assert steps == full
    models = whole_checkpoint(tmp_path / "grown"), whole_checkpoint(tmp_path / "full")
    equal = compare(grown_logs[-1], full_logs[-1], *models)
    assert equal["rows elsewhere"] > 1_000
    lines = [json.loads(text) for text in (tmp_path / "grown" / "metrics.jsonl").read_text().splitlines()]
    valid = {line["step"]: line["auc"] for line in lines if line["kind"] == "valid"}
    for log, end in zip(grown_logs, steps[0], strict=True):
        manifest = load_manifest(log)
        sizes = ", ".join(f"{name} {info.rows:,}" for name, info in manifest.tables.items())
        shown = f"{manifest.impressions[0]:,} impressions to step {end}"
        print(f"{log.name}: {shown}, rows: {sizes}; validation auc {valid[end]:.4f}")
    print(f"{ranks} rank(s), equal to the bit: {equal}")
