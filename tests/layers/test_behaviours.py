"""Sequences are told apart by what they hold, and a behaviour's token is its formula."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from ctr_rec.batch.batch import Jagged
from ctr_rec.layers.behaviours import BehaviourSettings, BehaviourTokens, distinct_sequences
from ctr_rec.layers.history import EventVectors
from ctr_rec.models.tower import Filling
from tests.models.streams import make_batch, random_log


def jagged(rows: list[list[int]]) -> Jagged:
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return Jagged(torch.tensor([v for row in rows for v in row], dtype=torch.int64), offsets)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [[]],
        [[], [0], [], [0], [0, 1], [1], [1, 2, 3]],
        [[0, 1], [0, 1], [0, 1], [4], [2, 3, 4], [3, 4], []],
    ],
)
def test_every_impression_reads_its_own_rows_and_equal_ones_are_one(rows: list[list[int]]) -> None:
    found = distinct_sequences(jagged(rows))
    assert found.segment_N is not None
    bounds = found.offsets_S1.tolist()
    kept = [found.position_P[a:b].tolist() for a, b in itertools.pairwise(bounds)]
    assert [kept[s] for s in found.segment_N.tolist()] == rows
    assert len(kept) == len({tuple(row) for row in rows}) == found.num_sequences


def test_requests_of_a_log_share_their_sequence() -> None:
    batch = make_batch(random_log(3), Filling.POINTWISE)
    history = batch.histories["all"]
    found = distinct_sequences(history)
    assert found.segment_N is not None
    rows = [history.values[a:b].tolist() for a, b in zip(history.offsets[:-1], history.offsets[1:], strict=True)]
    assert found.num_sequences < batch.num_impressions
    for n, s in enumerate(found.segment_N.tolist()):
        assert found.position_P[found.offsets_S1[s] : found.offsets_S1[s + 1]].tolist() == rows[n]
    per_sequence = torch.arange(found.num_sequences).unsqueeze(-1).double()
    assert found.per_impression(per_sequence).squeeze(-1).tolist() == found.segment_N.tolist()


@pytest.mark.parametrize("on", [True, False])
def test_token_is_its_mlp_with_order_and_age(on: bool) -> None:
    torch.manual_seed(0)
    batch = make_batch(random_log(1), Filling.POINTWISE)
    settings = BehaviourSettings(use_order=on, use_age=on, orders=2, ages=5)
    layer = BehaviourTokens(4, settings, 1, 6).double()
    for table in (layer.order_OD, layer.age_AD):
        assert (table is not None) is on
        if table is not None:
            torch.nn.init.normal_(table)
    vectors = EventVectors(torch.randn(7, 4, dtype=torch.float64), torch.randint(0, 7, (batch.num_events,)))
    sequences = distinct_sequences(batch.histories["all"])
    got = layer(vectors, sequences, batch)
    checked = 0
    for s in range(sequences.num_sequences):
        rows = sequences.position_P[sequences.offsets_S1[s] : sequences.offsets_S1[s + 1]].tolist()
        for place, row in enumerate(rows):
            hidden = functional.silu(layer.first(vectors.distinct_KD[vectors.row_T[row]]))
            want = layer.second(hidden)
            if layer.order_OD is not None and layer.age_AD is not None:
                seconds = int(batch.event_time[rows[-1]] - batch.event_time[row])
                want = want + layer.order_OD[min(len(rows) - 1 - place, 1)]
                want = want + layer.age_AD[min(int(torch.tensor(1.0 + seconds).log2()), 4)]
            torch.testing.assert_close(got[int(sequences.offsets_S1[s]) + place], want)
            checked += 1
    assert checked == got.shape[0] > 5


def test_no_behaviour_at_all() -> None:
    batch = make_batch(random_log(1), Filling.POINTWISE)
    layer = BehaviourTokens(4, BehaviourSettings(), 1, 6)
    empty = distinct_sequences(jagged([[] for _ in range(batch.num_impressions)]))
    none = replace(batch, event_time=batch.event_time[:0])
    vectors = EventVectors(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    out = layer(vectors, empty, none)
    assert out.shape == (0, 6)
    out.sum().backward()
