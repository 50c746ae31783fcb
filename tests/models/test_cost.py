"""Costs against hand counts on a tiny batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ctr_rec.batch.request import request_batch
from ctr_rec.layers.compressed import CompressedTokens
from ctr_rec.layers.context import ContextSettings
from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.layers.target_attention import TargetAttentionSettings
from ctr_rec.layers.time import AGES
from ctr_rec.models.baselines.dcn_v2 import DCNv2Config
from ctr_rec.models.baselines.din import DINConfig
from ctr_rec.models.baselines.hstu import HSTUConfig
from ctr_rec.models.baselines.mlp import MLPConfig
from ctr_rec.models.cost import CostCounter, cost
from ctr_rec.models.grab.config import Behaviours
from ctr_rec.models.grab.tower import GRABConfig
from ctr_rec.models.ranker import Ranker
from ctr_rec.models.tower import Filling, SplitTower, TowerConfig
from tests.models.streams import CHANNELS, ITEMS_ONLY, SPEC, Scorer, look_up, make_batch, random_log
from tests.models.test_no_leak import CASES

OFF = ContextSettings(use_profile=False, use_request=False, use_counters=False, use_time=False)
TABLES = ITEMS_ONLY.model_copy(update={"tables": ITEMS_ONLY.tables[1:2]})
ITEM_WIDTH, ITEM_ROWS = 4, 40


def test_mlp() -> None:
    batch = make_batch(random_log(1), Filling.POINTWISE, TABLES)
    ranker = Ranker(TABLES, MLPConfig(mlp=MLPSettings(hidden=(5, 3)), context=OFF, use_action=False), tuple(CHANNELS))
    got = cost(ranker, TABLES, batch)
    # Candidate and two channels of width 4 into 5, 3, then the head.
    assert got.sparse == ITEM_ROWS * ITEM_WIDTH
    assert got.dense == (12 * 5 + 5) + (5 * 3 + 3) + (3 + 1)
    pairs = sum(h.values.shape[0] for h in batch.histories.values())
    expected = 2 * (12 * 5 + 5 * 3 + 3) + pairs * ITEM_WIDTH / batch.num_impressions
    assert got.flops_per_impression == pytest.approx(expected)


def test_din() -> None:
    batch = make_batch(random_log(1), Filling.POINTWISE, TABLES)
    tower = DINConfig(
        attention=TargetAttentionSettings(hidden=(6, 2)),
        mlp=MLPSettings(hidden=(5,)),
        context=OFF,
        use_action=False,
        use_age=False,
        use_order=False,
    )
    got = cost(Ranker(TABLES, tower, ("all", "liked")), TABLES, batch)
    assert got.dense == 2 * ((16 * 6 + 6) + (6 * 2 + 2) + (2 + 1)) + (12 * 5 + 5) + (5 + 1)
    n, events = batch.num_impressions, batch.num_events
    pairs = sum(h.values.shape[0] for h in batch.histories.values())
    # Per pair: product part 4 x 6, then 6 x 2, 2 x 1 and the weighted sum of 4 numbers.
    attention = 2 * (2 * (n + events) * 4 * 6 + pairs * (4 * 6 + 6 * 2 + 2 + 4))
    assert got.flops_per_impression * n == pytest.approx(attention + 2 * n * (12 * 5 + 5))


def test_hstu() -> None:
    log = random_log(1)
    batch = make_batch(log, Filling.PACKED, TABLES)
    tower = HSTUConfig(
        width=6, heads=2, head_width=3, window=4, mlp=MLPSettings(hidden=(5,)), context=OFF, use_action=False
    )
    got = cost(Ranker(TABLES, tower), TABLES, batch)
    layer = 6 * 24 + (6 * 6 + 6) + (5 * 2) + (AGES * 2)
    assert got.dense == (4 * 6 + 6) + 2 * layer + 2 * (6 + 6) + (6 * 5 + 5) + (5 + 1)
    n, events = batch.num_impressions, batch.num_events
    seen = sum(min(4, sum(not log.hidden(e, i) for e in log.events)) for i in log.impressions)
    among = sum(min(4, sum(k.user == e.user and k.time <= e.time for k in log.events)) for e in log.events)
    token, pair = 2 * (6 * 24 + 6 * 6), 2 * (6 + 6)
    first = (n + events) * token + (seen + n + among) * pair
    last = n * token + (seen + n) * pair + events * 2 * 6 * 12
    rest = 2 * 2 * batch.item.shape[0] * 4 * 6 + n * 2 * (6 * 5 + 5)
    assert got.flops_per_impression * n == pytest.approx(first + last + rest)


CHANNELLED = GRABConfig(
    width=6,
    heads=2,
    head_width=3,
    ffn=5,
    layers=3,
    span=5,
    channels={"all": Behaviours(window=3), "liked": Behaviours(actions=(2, 3), window=2)},
)


@pytest.mark.parametrize(
    "config", [CHANNELLED, HSTUConfig(width=6, heads=2, head_width=3, window=4)], ids=["grab", "hstu"]
)
def test_state_bytes_are_those_of_the_states_that_are_kept(config: TowerConfig) -> None:
    scorer = Scorer(config)
    batch = scorer.batch(random_log(1))
    assert isinstance(scorer.tower, SplitTower)
    state = scorer.tower.encode_history(look_up(batch), batch)
    kept = sum(state.user(user, scorer.tower.looks_back).num_bytes for user in range(batch.num_users))
    assert scorer.tower.state_bytes(batch) == kept
    single = cost(Ranker(SPEC, config), SPEC, batch).state_bytes_per_user
    assert single is not None
    assert single < kept / batch.num_users, "keys and values are float32"


def test_a_tower_without_a_state_has_no_state_bytes() -> None:
    batch = make_batch(random_log(1), Filling.POINTWISE)
    assert cost(Ranker(SPEC, MLPConfig(), tuple(CHANNELS)), SPEC, batch).state_bytes_per_user is None


ONE_LAYER = HSTUConfig(
    width=6, heads=2, head_width=3, window=4, layers=1, mlp=MLPSettings(hidden=(5,)), context=OFF, use_action=False
)


def test_a_request_pays_for_its_user_once() -> None:
    """60 candidates of one layer against the user's newest 4 events: keys and values of these are made once."""
    batch = make_batch(random_log(1), Filling.PACKED, TABLES)
    n = int(batch.history_length.argmax())
    events = 4
    assert batch.history_length[n] > events
    # An impression of every hundred is asked, the first one first.
    batch = request_batch(batch, n, candidates=1)
    got = cost(Ranker(TABLES, ONE_LAYER), TABLES, batch, reach=ONE_LAYER.reach)
    items = len(set(batch.item[batch.event_item[-events:]].tolist())) + 60
    user = events * 2 * 6 * 12
    candidate = 2 * (6 * 24 + 6 * 6) + (events + 1) * 2 * (6 + 6) + 2 * (6 * 5 + 5)
    assert got.requests == 1
    assert got.flops_per_request == 2 * 2 * items * 4 * 6 + user + 60 * candidate
    assert got.flops_per_request is not None
    assert got.flops_per_request < 60 * got.flops_per_impression


def test_without_a_user_side_a_request_costs_its_candidates() -> None:
    batch = make_batch(random_log(1), Filling.POINTWISE, TABLES)
    batch = request_batch(batch, int(batch.history_length.argmax()), candidates=1)
    tower = MLPConfig(mlp=MLPSettings(hidden=(5, 3)), context=OFF, use_action=False)
    got = cost(Ranker(TABLES, tower, tuple(CHANNELS)), TABLES, batch)
    assert got.flops_per_request == 60 * got.flops_per_impression


def test_requests_are_an_impression_of_every_hundred_whatever_the_batches() -> None:
    whole = request_batch(make_batch(random_log(1), Filling.PACKED), 0, candidates=7)
    counter = CostCounter(Ranker(SPEC, CHANNELLED), reach=CHANNELLED.reach)
    for seen, requests in ((7, 1), (70, 1), (100, 1), (101, 2), (350, 4)):
        while counter.sums[0] < seen:
            counter.add(request_batch(whole, 0, candidates=min(7, seen - int(counter.sums[0]))))
        assert counter.cost(SPEC).requests == requests
    before = counter.sums.copy()
    counter.add(replace(whole, weight=torch.zeros(7)))
    assert (counter.sums == before).all(), "the stand-in of a rank without impressions"
    both = counter.cost(SPEC, before * 2)
    assert both.requests == 8
    assert both.flops_per_request == counter.cost(SPEC).flops_per_request


@pytest.mark.parametrize(
    "config",
    [
        MLPConfig(use_counts=True),
        DCNv2Config(),
        DINConfig(),
        HSTUConfig(width=6, heads=2, head_width=3, window=3),
        CHANNELLED,
    ],
    ids=["mlp", "dcn_v2", "din", "hstu", "grab"],
)
def test_every_candidate_of_a_request_scores_as_its_impression(config: TowerConfig) -> None:
    """So the request holds all that the impression reads, and the impression's neighbours add nothing."""
    scorer = Scorer(config)
    batch = scorer.batch(random_log(3, delay=1))
    with torch.no_grad():
        logits = scorer(look_up(batch), batch)
        for n in range(batch.num_impressions):
            request = request_batch(batch, n, candidates=3, reach=config.reach)
            found = scorer(look_up(request), request)
            torch.testing.assert_close(found, logits[n].expand(3), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["token_mlp", "autoint", "rankmixer", "hiformer", "hiformer_composite_task_token"])
def test_behind_the_tokens_pytorch_counts_the_same(name: str) -> None:
    scorer = Scorer(CASES[name])
    batch = scorer.batch(random_log(1))
    embedded, inputs = look_up(batch), scorer.tower.inputs
    assert isinstance(inputs, CompressedTokens)
    with FlopCounterMode(display=False) as whole:
        scorer.tower(embedded, batch)
    with FlopCounterMode(display=False) as of_tokens:
        inputs(embedded, batch)
    counted = whole.get_total_flops() - of_tokens.get_total_flops()
    assert counted == scorer.tower.flops(batch) - inputs.flops(batch) > 0
