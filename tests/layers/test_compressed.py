"""Compressed tokens against DIN's formula pair by pair, and what may not matter to them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ctr_rec.batch.batch import Batch
from ctr_rec.layers.behaviours import Sequences, distinct_sequences
from ctr_rec.layers.compressed import CompressedTokens, rows_read
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.target_attention import TargetAttention, TargetAttentionSettings
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.tower import Filling
from tests.models.streams import CHANNELS, ITEMS_ONLY, SPEC, Log, look_up, make_batch, random_log

D = 6


def _layer() -> CompressedTokens:
    layer = CompressedTokens(
        SPEC, TokenSettings(width=D, recent="all"), TargetAttentionSettings(hidden=(5, 3)), tuple(CHANNELS), "a test"
    ).double()
    for parameter in layer.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter)
    return layer


def _by_loops(layer: CompressedTokens, embedded: Embedded, batch: Batch) -> Tensor:
    """Impression by impression and behaviour by behaviour, on the tokens of the distinct sequences."""
    tokens = layer.inputs(embedded, batch)
    behaviours = tokens.behaviours["all"]
    sequences, unit = behaviours.sequences, layer.attention["all"]
    assert isinstance(unit, TargetAttention)
    assert sequences.segment_N is not None
    rows = []
    for n in range(batch.num_impressions):
        named = dict(zip(layer.inputs.names, tokens.features_NLD[n], strict=True))
        t = named["candidate/item"] + named["candidate/genres"] + named["candidate/year"]
        s = int(sequences.segment_N[n])
        pooled = torch.zeros(D, dtype=torch.float64)
        for p in range(int(sequences.offsets_S1[s]), int(sequences.offsets_S1[s + 1])):
            h = behaviours.x_PD[p]
            x = unit.first(torch.cat([t, h, t - h, t * h])).relu()
            for further in unit.hidden:
                x = further(x).relu()
            pooled = pooled + unit.out(x) * h
        rows.append(torch.stack([*named.values(), pooled]))
    return torch.stack(rows) if rows else torch.zeros(0, len(layer.names), D, dtype=torch.float64)


@pytest.mark.parametrize("log", [random_log(0), random_log(1, delay=4), Log((), random_log(0).impressions[:2], 4)])
def test_equals_din_pair_by_pair(log: Log) -> None:
    layer = _layer()
    batch = make_batch(log, Filling.POINTWISE)
    embedded = look_up(batch)
    got, expected = layer(embedded, batch), _by_loops(layer, embedded, batch)
    assert layer.names[-1] == "sequence/all"
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    weights, wanted = torch.randn_like(got), list(layer.parameters())
    ours = torch.autograd.grad((got * weights).sum(), wanted, materialize_grads=True)
    theirs = torch.autograd.grad((expected * weights).sum(), wanted, materialize_grads=True, allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_a_sequence_that_many_read_is_read_by_each() -> None:
    shared = Sequences(torch.tensor([4, 5, 7]), torch.tensor([0, 0, 2, 3]), torch.tensor([1, 0, 2, 1]))
    rows, offsets = rows_read(shared)
    assert rows.tolist() == [0, 1, 2, 0, 1]
    assert offsets.tolist() == [0, 2, 2, 3, 5]


def test_own_sequences_are_read_in_order() -> None:
    rows, offsets = rows_read(Sequences(torch.tensor([4, 5, 7]), torch.tensor([0, 2, 2, 3])))
    assert rows.tolist() == [0, 1, 2]
    assert offsets.tolist() == [0, 2, 2, 3]


def test_flops_count_pairs_and_distinct_behaviours() -> None:
    layer = _layer()
    log = random_log(0)
    first = max(log.impressions, key=lambda i: i.request_time)
    # A second candidate of the same request reads the same behaviours.
    batch = make_batch(replace(log, impressions=(first, replace(first, item=first.item + 1))), Filling.POINTWISE)
    history = batch.histories["all"]
    distinct = distinct_sequences(history).position_P.shape[0]
    assert 2 * distinct == history.values.shape[0] > 0
    first_layer, per_pair = D * 5, D * 5 + 5 * 3 + 3 + D
    expected = 2 * (first_layer * (2 + distinct) + 2 * distinct * per_pair)
    assert layer.flops(batch) == layer.inputs.flops(batch) + expected


def test_a_model_that_reads_items_alone_has_their_tokens_and_the_sequence() -> None:
    layer = CompressedTokens(
        ITEMS_ONLY, TokenSettings(width=D, recent="liked"), TargetAttentionSettings(), tuple(CHANNELS), "a test"
    )
    assert layer.names == ("candidate/item", "time/hour", "time/weekday", "time/gap", "sequence/liked")
    assert layer.layout == tuple((name, D) for name in layer.names)
