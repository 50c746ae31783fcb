"""The whole reader against a naive loop over the stored rows, and its promises on order, ranks and resuming."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ctr_rec.batch.batch import Batch
from ctr_rec.batch.config import Alone, Batches, Channel, DataConfig, Packed, Pointwise
from ctr_rec.batch.reader import Reader
from ctr_rec.batch.source import Slices, Source
from ctr_rec.errors import ConfigError, DataError, SchemaError
from ctr_rec.schema.log import Split
from ctr_rec.schema.manifest import SPLITS, LogManifest, RowGroup
from ctr_rec.schema.table import EmbeddingSettings, SparseSpec, sparse_spec
from tests.batch.logs import random_users, schema, write_log
from tests.batch.naive import Truth, dwell, ids, of_channel, rows, same, truths

CHANNELS = {"liked": Channel(actions=(1,), last=3), "acted": Channel(actions=(1, 2), last=6), "all": Channel(last=5)}
POINTWISE = Pointwise(impressions=9)
PACKED = Packed(tokens=48, context=10)
CUT = Pointwise(impressions=9, history=4)
ALONE = Alone(impressions=9)
ALONE_CUT = Alone(impressions=9, history=4, tokens=40)
FILLINGS = {"pointwise": POINTWISE, "cut": CUT, "packed": PACKED, "alone": ALONE, "alone_cut": ALONE_CUT}
EACH = pytest.mark.parametrize("batches", FILLINGS.values(), ids=FILLINGS)
Log = tuple[Path, LogManifest, SparseSpec]


def make_log(folder: Path, action_delay: int = 0, seed: int = 0, longest: int = 40) -> Log:
    users = random_users(seed, count=17, longest=longest)
    manifest = write_log(folder, users, log_schema=schema(action_delay))
    return folder, manifest, sparse_spec(manifest, EmbeddingSettings(dim=4))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    return make_log(tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="module")
def late_log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    return make_log(tmp_path_factory.mktemp("late"), action_delay=25, seed=1)


def reader(
    log: Log,
    batches: Batches,
    split: str = "train",
    rank: int = 0,
    world: int = 1,
    seed: int = 3,
    workers: int = 0,
    prefetch: int = 2,
    shuffle: bool = True,
    channels: dict[str, Channel] | None = None,
) -> Reader:
    config = DataConfig(
        log=str(log[0]),
        label="liked",
        batches=batches,
        channels=CHANNELS if channels is None else channels,
        buffer_row_groups=2,
        workers=workers,
        prefetch=prefetch,
        shuffle=shuffle,
    )
    return Reader(config, log[2], split, seed, rank, world)


def cut(truth: Truth, batches: Batches) -> Truth:
    """What is left of it where the filling gives an impression its newest events only."""
    if isinstance(batches, Packed) or batches.history is None:
        return truth
    return replace(truth, visible=truth.visible[-batches.history :])


@EACH
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("delay", [0, 25])
def test_histories_are_what_a_naive_loop_finds(
    log: Log, late_log: Log, batches: Batches, split: str, delay: int
) -> None:
    chosen = late_log if delay else log
    expected = truths(chosen[0], chosen[1], split)
    seen = 0
    for batch in reader(chosen, batches, split).batches(0):
        stored = dwell(batch)
        for name, channel in CHANNELS.items():
            for n, history in enumerate(rows(batch.histories[name])):
                truth = cut(expected[int(batch.impression_id[n])], batches)
                want = [e["dwell"] for e in of_channel(truth, channel)]
                if isinstance(batches, Packed):  # what lies before the piece is cut off
                    own = int(batch.impression_user[n])
                    begin, end = batch.event_offsets[own : own + 2].tolist()
                    want = [d for d in want if d in set(stored[begin:end].tolist())]
                    assert len(want) >= min(batches.reach, len(truth.visible), channel.last) or channel.actions
                assert stored[history].tolist() == want
                seen += len(want)
    assert seen > 100


@EACH
@pytest.mark.parametrize("delay", [0, 25])
def test_visible_ends_are_what_a_naive_loop_finds(log: Log, late_log: Log, batches: Batches, delay: int) -> None:
    chosen = late_log if delay else log
    expected = truths(chosen[0], chosen[1], "train")
    for batch in reader(chosen, batches).batches(0):
        stored, offsets = dwell(batch), batch.event_offsets.tolist()
        for n, number in enumerate(batch.impression_id.tolist()):
            truth = expected[number]
            begin, end = offsets[int(batch.impression_user[n])], int(batch.visible_end[n])
            visible = [e["dwell"] for e in truth.visible]
            got = stored[begin:end].tolist()
            assert int(batch.history_length[n]) == len(visible)
            if isinstance(batches, Packed):
                assert len(got) >= min(batches.reach, len(visible))
                assert got == visible[len(visible) - len(got) :]
            elif isinstance(batches, Alone):
                assert got == [e["dwell"] for e in cut(truth, batches).visible]
                assert end == offsets[int(batch.impression_user[n]) + 1]
            else:
                assert got == [d for d in visible if d in set(stored.tolist())]
            own = int(batch.impression_event[n])
            if own >= 0:
                assert stored[own] == truth.event["dwell"]
                assert own >= end
            else:
                assert truth.event["dwell"] not in (got if isinstance(batches, Alone) else stored.tolist())


@EACH
def test_event_ends_cover_an_event_its_ties_and_all_before(log: Log, batches: Batches) -> None:
    for batch in reader(log, batches).batches(0):
        known, offsets = batch.event_known_at.tolist(), batch.event_offsets.tolist()
        for begin, end in itertools.pairwise(offsets):
            for t in range(begin, end):
                assert batch.event_end[t] == begin + sum(k <= known[t] for k in known[begin:end])


@EACH
@pytest.mark.parametrize("delay", [0, 25])
def test_every_input_is_the_stored_one(log: Log, late_log: Log, batches: Batches, delay: int) -> None:
    folder, manifest, spec = chosen = late_log if delay else log
    expected = truths(folder, manifest, "train")
    by_dwell = {e["dwell"]: e for t in expected.values() for e in [*t.visible, t.event]}
    for batch in reader(chosen, batches).batches(0):
        _check_events(batch, by_dwell)
        _check_impressions(batch, [expected[i] for i in batch.impression_id.tolist()])
        for table in spec.collection():
            distinct = batch.tables[table.name].tolist()
            assert distinct == sorted(set(distinct))
            assert all(0 <= row < table.rows for row in distinct)


def _check_events(batch: Batch, by_dwell: dict[float, dict[str, object]]) -> None:
    stored = [by_dwell[d] for d in dwell(batch).tolist()]
    assert batch.item[batch.event_item].tolist() == [e["item"] for e in stored]
    assert batch.event_action.tolist() == [e["action"] for e in stored]
    assert batch.event_time.tolist() == [e["time"] for e in stored]
    assert batch.event_known_at.tolist() == [e["known_at"] for e in stored]
    tab, topics = batch.events.ids["tab"], batch.events.ids["topics"]
    assert batch.tables["tab"][tab.index].tolist() == [e["tab"] for e in stored]
    assert topics.offsets is not None
    assert [[int(batch.tables["genre"][i]) for i in row] for row in _rows(topics)] == [e["topics"] for e in stored]


def _rows(ids: object) -> list[list[int]]:
    index, offsets = ids.index.tolist(), ids.offsets.tolist()  # type: ignore[attr-defined]
    return [index[a:b] for a, b in itertools.pairwise(offsets)]


def _check_impressions(batch: Batch, found: list) -> None:
    assert batch.item[batch.impression_item].tolist() == [t.event["item"] for t in found]
    assert batch.impression_time.tolist() == [t.event["request_time"] for t in found]
    assert batch.label.tolist() == [t.event["label_liked"] for t in found]
    assert batch.user[batch.impression_user].tolist() == [t.user["user"] for t in found]
    assert set(batch.impressions.ids) == {"tab", "topics"}  # dwell is known with the action only
    tab = batch.impressions.ids["tab"]
    assert batch.tables["tab"][tab.index].tolist() == [t.event["tab"] for t in found]
    assert set(batch.impressions.numbers) == {"item_like_count", "item_like_rate"}
    count = (np.log1p([t.event["item_like_count"] for t in found]) - 0.5) / 2
    np.testing.assert_allclose(batch.impressions.numbers["item_like_count"].numpy(), count, rtol=1e-5)
    rate = (np.array([t.event["item_like_rate"] for t in found]) - 0.5) / 2
    np.testing.assert_allclose(batch.impressions.numbers["item_like_rate"].numpy(), rate, rtol=1e-5, atol=1e-7)
    for name in ("gender", "likes"):
        bags = rows(batch.user_bags[name])
        for n, truth in enumerate(found):
            want = truth.user[name]
            assert bags[int(batch.impression_user[n])] == (want if isinstance(want, list) else [want])
    age = batch.users.numbers["age"][batch.impression_user].numpy()
    np.testing.assert_allclose(age, (np.array([t.user["age"] for t in found]) - 0.5) / 2)


@EACH
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_every_impression_comes_exactly_once_on_any_number_of_ranks(
    log: Log, batches: Batches, split: str, world: int
) -> None:
    expected = sorted(truths(log[0], log[1], split))
    for epoch in (0, 1):
        ranks = [list(reader(log, batches, split, r, world).batches(epoch)) for r in range(world)]
        assert {len(made) for made in ranks} == {reader(log, batches, split).num_batches()}
        assert sorted(i for made in ranks for i in ids(made)) == expected


@EACH
@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_together_hold_the_one_rank_batch(log: Log, batches: Batches, world: int) -> None:
    whole = list(reader(log, batches).batches(0))
    parts = [list(reader(log, batches, rank=r, world=world).batches(0)) for r in range(world)]
    for k, batch in enumerate(whole):
        mine = [p[k] for p in parts]
        assert [i for m in mine for i in ids([m])] == batch.impression_id.tolist()
        stored = [dwell(m).tolist() for m in mine]
        assert set(itertools.chain(*stored)) == set(dwell(batch).tolist())
        if not isinstance(batches, Pointwise):
            assert list(itertools.chain(*stored)) == dwell(batch).tolist()
        assert {m.global_impressions for m in mine} == {batch.num_impressions}
        assert {m.global_events for m in mine} == {batch.global_events}
        if isinstance(batches, Pointwise):
            largest = sum(c.last for c in CHANNELS.values()) + 1
            assert all(m.num_tokens <= (batch.num_tokens + 9) / world + largest for m in mine)
        if batches is ALONE_CUT:
            cost = [m.num_events + m.num_impressions for m in mine]
            assert max(cost) <= (batch.num_events + batch.num_impressions) / world + 5


@EACH
def test_a_reader_goes_on_from_any_batch(log: Log, batches: Batches) -> None:
    whole = list(reader(log, batches).batches(5))
    for start in range(len(whole) + 1):
        rest = list(reader(log, batches, workers=2).batches(5, start))
        assert len(rest) == len(whole) - start
        assert all(same(a, b) for a, b in zip(whole[start:], rest, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_going_on_does_not_read_what_was_skipped(log: Log, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    chosen = reader(log, POINTWISE, workers=workers)
    plans = chosen._order.plan(0)
    assert len(plans) > 2
    read: list[int] = []
    whole = Source.read

    def noted(self: Source, groups: Sequence[RowGroup]) -> Slices:
        read.extend(g.first_event for g in groups)
        return whole(self, groups)

    monkeypatch.setattr(Source, "read", noted)
    start = plans[-1].first_batch
    assert len(list(chosen.batches(0, start))) == plans[-1].num_batches
    assert read == [g.first_event for g in plans[-1].row_groups]
    assert list(chosen.batches(0, chosen.num_batches())) == []


@EACH
def test_workers_and_prefetch_change_nothing(log: Log, batches: Batches) -> None:
    first = list(reader(log, batches).batches(0))
    for workers, prefetch in ((1, 1), (3, 8)):
        again = list(reader(log, batches, workers=workers, prefetch=prefetch).batches(0))
        assert all(same(a, b) for a, b in zip(first, again, strict=True))


@EACH
def test_seed_and_epoch_change_the_order(log: Log, batches: Batches) -> None:
    orders = [
        [frozenset(ids([b])) for b in reader(log, batches, seed=seed).batches(epoch)]
        for seed, epoch in ((3, 0), (3, 1), (4, 0))
    ]
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]


@EACH
def test_without_shuffle_the_order_is_that_of_the_files(log: Log, batches: Batches) -> None:
    made = list(reader(log, batches, "valid", shuffle=False).batches(0))
    users = [int(b.user[u]) for b in made for u in b.impression_user.tolist()]
    assert users == sorted(users)
    assert ids(made) == ids(reader(log, batches, "valid", shuffle=False, seed=99).batches(7))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("tokens", "context"), [(7, 1), (21, 10), (48, 10), (64, None), (400, 60)])
def test_the_token_budget_holds(tmp_path: Path, seed: int, tokens: int, context: int | None) -> None:
    batches = Packed(tokens=tokens, context=context)
    log = make_log(tmp_path, seed=seed, longest=90)
    for split in SPLITS:
        for batch in reader(log, batches, split, channels={}).batches(seed):
            assert 1 <= batch.num_impressions <= batch.num_tokens <= tokens
            assert batch.global_events == batch.num_events


def test_a_user_longer_than_the_budget_is_cut_with_context(tmp_path: Path) -> None:
    events = [{"time": t, "item": t % 39, "action": 1, "impression": True, "label": 1, "dwell": t} for t in range(200)]
    manifest = write_log(tmp_path, [{"user_id": "a", "events": events}])
    log = tmp_path, manifest, sparse_spec(manifest, EmbeddingSettings(dim=4))
    made = list(reader(log, Packed(tokens=50, context=12), channels={}).batches(0))
    assert sorted(ids(made)) == list(range(200))
    assert len(made) > 200 / 50
    for batch in made:
        assert batch.num_tokens <= 50
        begin = batch.event_offsets[batch.impression_user]
        assert ((batch.visible_end - begin) >= batch.history_length.clamp(max=12)).all()


def test_a_rank_without_impressions_gets_one_stand_in(tmp_path: Path) -> None:
    events = [{"time": t, "item": 3, "action": 1, "impression": t > 1, "label": 1, "dwell": t} for t in range(5)]
    manifest = write_log(tmp_path, [{"user_id": "a", "events": []}, {"user_id": "b", "events": events}])
    log = tmp_path, manifest, sparse_spec(manifest, EmbeddingSettings(dim=4))
    for batches in (Pointwise(impressions=3), Packed(tokens=100), Alone(impressions=3)):
        parts = [next(reader(log, batches, rank=r, world=5).batches(0)) for r in range(5)]
        empty = [p for p in parts if p.weight.sum() == 0]
        assert len(empty) >= 2
        assert sorted(ids(parts)) == [2, 3, 4]
        for p in empty:
            assert p.weight.tolist() == [0.0]
            assert p.impression_id.tolist() == [-1]
            assert p.history_length.tolist() == p.visible_end.tolist() == p.label.tolist() == [0]
            assert (p.num_events, p.num_impressions, p.num_users) == (0, 1, 1)
            assert p.event_offsets.tolist() == [0, 0]
            assert all(h.offsets.tolist() == [0, 0] for h in p.histories.values())
            assert p.global_impressions == 3
            assert set(p.tables) == {"genre", "item", "tab"}


def test_channels_may_be_left_out(log: Log) -> None:
    for batch in reader(log, POINTWISE, channels={}).batches(0):
        assert batch.histories == {}
        assert batch.num_events == 0
    for batch in reader(log, PACKED, channels={}).batches(0):
        assert batch.histories == {}


def test_single_impressions_make_batches_too(log: Log) -> None:
    made = list(reader(log, Pointwise(impressions=1)).batches(0))
    assert all(b.num_impressions == 1 for b in made)
    assert len(made) == reader(log, POINTWISE).num_impressions()


def test_leaving_the_loop_early_stops_the_threads(log: Log) -> None:
    before = threading.active_count()
    batches = reader(log, POINTWISE, workers=2).batches(0)
    next(batches)
    assert threading.active_count() > before
    batches.close()
    assert threading.active_count() == before


def test_a_bad_value_is_raised_in_the_consumer(tmp_path: Path) -> None:
    users = random_users(0)
    users[0]["events"][0]["tab"] = 5
    manifest = write_log(tmp_path, users)
    log = tmp_path, manifest, sparse_spec(manifest, EmbeddingSettings(dim=4))
    before = threading.active_count()
    for workers in (0, 2):
        with pytest.raises(DataError, match=r"column 'tab' of .*part-00000.parquet, row group 0, row 0, position 0"):
            list(reader(log, POINTWISE, workers=workers).batches(0))
    assert threading.active_count() == before


def test_waiting_is_counted(log: Log) -> None:
    chosen = reader(log, POINTWISE)
    assert chosen.waited == 0.0
    list(chosen.batches(0))
    assert chosen.waited > 0.0


def test_unknown_names_are_refused(log: Log) -> None:
    with pytest.raises(ConfigError, match=r"data.label: the log 'small' has liked, got 'bought'"):
        Reader(DataConfig(log=str(log[0]), label="bought"), log[2], "train", 0)
    with pytest.raises(ConfigError, match=r"split: expected one of train, valid, test, got 'dev'"):
        reader(log, POINTWISE, "dev")
    with pytest.raises(ConfigError, match=r"data.channels.x.actions: .* 0=none, 1=like, 2=dislike; got 3, 7"):
        reader(log, POINTWISE, channels={"x": Channel(actions=(1, 3, 7))})


def test_a_split_without_impressions_is_refused(tmp_path: Path) -> None:
    manifest = write_log(tmp_path, random_users(0), split=Split(train_end=5000, valid_end=6000))
    log = tmp_path, manifest, sparse_spec(manifest, EmbeddingSettings(dim=4))
    with pytest.raises(DataError, match="no impression in split 'valid'"):
        reader(log, POINTWISE, "valid")


def test_a_log_that_is_not_the_models_is_refused(log: Log, tmp_path: Path) -> None:
    other = write_log(tmp_path, random_users(0), tables={"item": 50, "genre": 7, "tab": 5, "gender": 3})
    with pytest.raises(SchemaError, match=r"table 'item': the model has 40 rows, the log 'small' has 50"):
        reader((tmp_path, other, log[2]), POINTWISE)


def test_no_log_no_reader(log: Log, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not a prepared log: it has no manifest.json"):
        reader((tmp_path, log[1], log[2]), POINTWISE)
