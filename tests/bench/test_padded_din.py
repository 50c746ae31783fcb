"""The padded DIN computes what our DIN computes, so that their speeds may be compared."""

from __future__ import annotations

import pytest
import torch

from ctr_rec.batch.batch import Batch
from ctr_rec.batch.reader import Reader
from ctr_rec.bench.din_log import LAST, density, textbook_run, thin
from ctr_rec.bench.din_step import both_sides, difference
from ctr_rec.bench.padded_din import PaddedDIN, pad
from ctr_rec.bench.reader import write_synthetic
from ctr_rec.models.baselines.din import DINConfig
from ctr_rec.schema.manifest import load_manifest
from ctr_rec.schema.table import SparseSpec, sparse_spec
from ctr_rec.sharding.group import open_group
from ctr_rec.train.run import Run


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, SparseSpec, list[Batch]]:
    log = tmp_path_factory.mktemp("log")
    write_synthetic(log, users=60, events=3000, items=90)
    run = textbook_run(log, steps=2, impressions=100)
    spec = sparse_spec(load_manifest(log), run.embedding)
    return run, spec, list(Reader(run.data, spec, "train", 0).batches(0))[:3]


def test_both_models_agree_in_logits_gradients_and_table_updates(prepared: tuple[Run, SparseSpec, list[Batch]]) -> None:
    run, spec, batches = prepared
    with open_group("cpu") as group:
        sides = both_sides(run, spec, group, batches)
        assert difference(sides) < 1e-4
        attention = next(p for n, p in sides["padded"].parallel.dense_parameters.items() if "attention" in n)
        with torch.no_grad():
            attention.add_(0.5)
        assert difference(sides) > 1e-4


def test_steps_train_both_models(prepared: tuple[Run, SparseSpec, list[Batch]]) -> None:
    run, spec, batches = prepared
    with open_group("cpu") as group:
        for side in both_sides(run, spec, group, batches).values():
            before = [p.detach().clone() for p in side.parallel.model.parameters()]
            side.steps()
            assert all(not torch.equal(a, b) for a, b in zip(before, side.parallel.model.parameters(), strict=True))


def test_rectangles_hold_the_histories_in_order(prepared: tuple[Run, SparseSpec, list[Batch]]) -> None:
    batch = prepared[2][0]
    for name, padded in pad(batch, LAST).items():
        history = batch.histories[name]
        assert padded.mask_NL.sum(1).tolist() == history.lengths().tolist()
        assert padded.item_NL[padded.mask_NL].tolist() == batch.event_item[history.values].tolist()


def test_thinning_keeps_the_newest_events(prepared: tuple[Run, SparseSpec, list[Batch]]) -> None:
    batch = prepared[2][0]
    thinned = thin(batch, 0.4)
    assert density([thinned]) == pytest.approx(0.4 * density([batch]), rel=0.05)
    for name, history in batch.histories.items():
        for n in range(0, batch.num_impressions, 7):
            kept = thinned.histories[name]
            mine = kept.values[kept.offsets[n] : kept.offsets[n + 1]]
            assert len(mine) == int(0.4 * float(history.lengths()[n]) + 0.5)
            end = int(history.offsets[n + 1])
            assert torch.equal(mine, history.values[end - len(mine) : end])


def test_what_a_pair_says_beyond_its_items_is_refused(prepared: tuple[Run, SparseSpec, list[Batch]]) -> None:
    run, spec, _ = prepared
    with pytest.raises(AssertionError, match="items only"):
        PaddedDIN(spec, DINConfig(), tuple(run.data.channels))
