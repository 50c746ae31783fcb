"""FuxiCTR is given the rows of our batches, and its absence is said."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from ctr_rec.batch.reader import Reader
from ctr_rec.bench import fuxictr_din
from ctr_rec.bench.din_log import LAST, textbook_run
from ctr_rec.bench.reader import write_synthetic
from ctr_rec.schema.manifest import load_manifest
from ctr_rec.schema.table import sparse_spec


def test_absence_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert fuxictr_din.missing() == "fuxictr is not installed"


@pytest.mark.skipif(fuxictr_din.missing() is not None, reason=str(fuxictr_din.missing()))
def test_its_loop_trains_on_our_rows(tmp_path: Path) -> None:
    write_synthetic(tmp_path, users=60, events=3000, items=90)
    run = textbook_run(tmp_path, steps=2, impressions=100)
    spec = sparse_spec(load_manifest(tmp_path), run.embedding)
    batches = list(Reader(run.data, spec, "train", 0).batches(0))[:2]
    with fuxictr_din.open_loop(batches, spec) as loop:
        assert loop.impressions == sum(batch.num_impressions for batch in batches)
        rows = loop.loader.dataset.darray
        assert loop.seconds() > 0
        assert loop.model._total_steps == len(batches)
    assert rows.shape == (loop.impressions, 1 + 2 * LAST + 1)
    first = batches[0]
    table = first.items.ids[spec.item[0].name]
    items = first.tables[table.table][table.index] + 1
    assert rows[: first.num_impressions, 0].tolist() == items[first.impression_item].tolist()
    pairs = sum(h.values.shape[0] for batch in batches for h in batch.histories.values())
    assert np.count_nonzero(rows[:, 1:-1]) == pairs
