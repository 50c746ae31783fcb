"""The sparse front against plain indexing into the tables."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from ctr_rec.batch.batch import Batch, Ids, Level
from ctr_rec.layers.embedding import SparseFront
from ctr_rec.models.tower import Filling
from tests.models.streams import ITEMS_ONLY, SPEC, Log, make_batch, random_log


def _tables(front: SparseFront) -> dict[str, Tensor]:
    return {name.split(".")[-2]: weight for name, weight in front.named_parameters()}


def _rows(table: Tensor, ids: Ids) -> Tensor:
    if ids.offsets is None:
        return table[ids.index]
    bounds = ids.offsets.tolist()
    return torch.stack([table[ids.index[a:b]].sum(0) for a, b in pairwise(bounds)])


def test_parameter_names_are_torchrecs() -> None:
    names = {name for name, _ in SparseFront(SPEC, "cpu").named_parameters()}
    rows = {f"collections.width_{SPEC.table(t).dim}.embeddings.{t}.weight" for t in ("genre", "item", "slot")}
    assert names == {*rows, "bags.embedding_bags.user.weight"}


def test_tables_of_different_widths_live_side_by_side() -> None:
    tables = tuple(t.model_copy(update={"dim": 3}) if t.name == "genre" else t for t in SPEC.tables)
    front = SparseFront(SPEC.model_copy(update={"tables": tables}), "cpu")
    weights = _tables(front)
    batch = make_batch(random_log(0), Filling.PACKED)
    out = front(batch)
    assert out.items["genres"].shape[1] == 3
    for name, ids in batch.items.ids.items():
        torch.testing.assert_close(out.items[name], _rows(weights[ids.table], ids))


def test_looks_up_every_level() -> None:
    front = SparseFront(SPEC, "cpu")
    tables = _tables(front)
    batch = make_batch(random_log(0), Filling.PACKED)
    out = front(batch)
    for got, level in ((out.items, batch.items), (out.events, batch.events), (out.impressions, batch.impressions)):
        assert got.keys() == level.ids.keys()
        for name, ids in level.ids.items():
            torch.testing.assert_close(got[name], _rows(tables[ids.table], ids))
    bag = batch.user_bags["user"]
    torch.testing.assert_close(out.users["user"], _rows(tables["user"], Ids("user", bag.values, bag.offsets)))


def test_indexes_follow_the_distinct_rows() -> None:
    """A batch carries the rows it needs and indexes into them, not into the table."""
    front = SparseFront(SPEC, "cpu")
    tables = _tables(front)
    base = make_batch(random_log(0), Filling.PACKED)
    need = torch.tensor([3, 17, 39])
    ids = {
        "item": Ids("item", torch.tensor([2, 0, 2])),
        "genres": Ids("genre", torch.tensor([1]), torch.tensor([0, 1, 1, 1])),
    }
    batch = replace(base, tables={**base.tables, "item": need}, items=Level(ids, {}, {}))
    out = front(batch)
    torch.testing.assert_close(out.items["item"], tables["item"][torch.tensor([39, 3, 39])])
    assert not out.items["genres"][1:].any()


def test_a_log_without_profile_has_no_bags() -> None:
    spec = ITEMS_ONLY.model_copy(update={"tables": ITEMS_ONLY.tables[1:2]})
    front = SparseFront(spec, "cpu")
    assert front.bags is None
    batch = make_batch(Log((), random_log(0).impressions[:1], 4), Filling.PACKED, spec)
    out = front(batch)
    assert out.users == {}
    assert out.items["item"].shape == (1, 4)


def test_meta_front_holds_no_memory() -> None:
    assert all(weight.device.type == "meta" for weight in SparseFront(SPEC).parameters())


def _count(batch: Batch, table: str) -> list[int]:
    """Occurrences counted one by one."""
    count = [0] * batch.tables[table].shape[0]
    positions = (
        (batch.items, torch.cat([batch.event_item, batch.impression_item]).tolist()),
        (batch.events, range(batch.num_events)),
        (batch.impressions, range(batch.num_impressions)),
    )
    for level, rows in positions:
        for ids in level.ids.values():
            bounds = ids.offsets.tolist() if ids.offsets is not None else range(ids.index.shape[0] + 1)
            for row in rows:
                for at in range(bounds[row], bounds[row + 1]) if ids.table == table else ():
                    count[int(ids.index[at])] += 1
    return count


def test_mean_gradients_are_the_sums_over_the_number_of_occurrences_and_no_value_changes() -> None:
    batch = make_batch(random_log(0), Filling.PACKED)
    fronts = [SparseFront(SPEC, "cpu", mean_gradients=mean) for mean in (False, True)]
    fronts[1].load_state_dict(fronts[0].state_dict())
    outs = [front(batch) for front in fronts]
    for out in outs:
        levels = (out.items, out.events, out.impressions, out.users)
        torch.stack([x.square().sum() for level in levels for x in level.values()]).sum().backward()
    for name, value in outs[0].items.items():
        assert torch.equal(outs[1].items[name], value)
    sums, means = (_gradients(front) for front in fronts)
    assert torch.equal(sums["user"], means["user"])
    for table in ("item", "genre", "slot"):
        count = torch.ones(sums[table].shape[0])
        count[batch.tables[table]] = torch.tensor(_count(batch, table)).float().clamp(min=1)
        assert count.max() > 1
        torch.testing.assert_close(means[table], sums[table] / count[:, None])


def _gradients(front: SparseFront) -> dict[str, Tensor]:
    return {name: weight.grad for name, weight in _tables(front).items() if weight.grad is not None}
