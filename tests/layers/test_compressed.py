"""Compressed tokens against DIN's formula pair by pair, and what may not matter to them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ctr_rec.batch.batch import Batch
from ctr_rec.layers.behaviours import distinct_sequences
from ctr_rec.layers.compressed import CompressedTokens
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.retrieval import RetrievalSettings
from ctr_rec.layers.target_attention import TargetAttention, TargetAttentionSettings
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.tower import Filling
from tests.models.streams import CHANNELS, CONTENT, ITEMS_ONLY, Log, look_up, make_batch, random_log

D = 6


RECENT = TokenSettings(width=D, recent="all")
RETRIEVED = TokenSettings(
    width=D,
    recent="liked",
    content="content",
    retrieval=RetrievalSettings(channel="all", most=2, feature="content"),
    simtier=True,
)


def _layer(settings: TokenSettings = RECENT) -> CompressedTokens:
    attention = TargetAttentionSettings(hidden=(5, 3))
    layer = CompressedTokens(CONTENT, settings, attention, tuple(CHANNELS), "a test").double()
    for parameter in layer.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter)
    return layer


def _by_loops(layer: CompressedTokens, embedded: Embedded, batch: Batch) -> Tensor:
    """Impression by impression and behaviour by behaviour, on the tokens of the distinct sequences."""
    tokens = layer.inputs(embedded, batch)
    rows = []
    for n in range(batch.num_impressions):
        named = dict(zip(layer.inputs.names, tokens.features_NLD[n], strict=True))
        t = sum((token for name, token in named.items() if name.startswith("candidate/")), torch.zeros(D))
        for name, behaviours in tokens.behaviours.items():
            unit, sequences = layer.attention[name], behaviours.sequences
            assert isinstance(unit, TargetAttention)
            s = n if sequences.segment_N is None else int(sequences.segment_N[n])
            pooled = torch.zeros(D, dtype=torch.float64)
            for p in range(int(sequences.offsets_S1[s]), int(sequences.offsets_S1[s + 1])):
                h = behaviours.x_PD[p]
                x = unit.first(torch.cat([t, h, t - h, t * h])).relu()
                for further in unit.hidden:
                    x = further(x).relu()
                pooled = pooled + unit.out(x) * h
            named[f"sequence/{name}"] = pooled
        assert tuple(named) == layer.names
        rows.append(torch.stack(list(named.values())))
    return torch.stack(rows)


@pytest.mark.parametrize("log", [random_log(0), random_log(1, delay=4), Log((), random_log(0).impressions[:2], 4)])
@pytest.mark.parametrize("settings", [RECENT, RETRIEVED], ids=["recent", "recent and retrieved"])
def test_equals_din_pair_by_pair(settings: TokenSettings, log: Log) -> None:
    layer = _layer(settings)
    batch = make_batch(log, Filling.POINTWISE, CONTENT)
    embedded = look_up(batch, CONTENT)
    got, expected = layer(embedded, batch), _by_loops(layer, embedded, batch)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    weights, wanted = torch.randn_like(got), list(layer.parameters())
    ours = torch.autograd.grad((got * weights).sum(), wanted)
    theirs = torch.autograd.grad((expected * weights).sum(), wanted, materialize_grads=True, allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_tokens_are_named() -> None:
    names = _layer(RETRIEVED).names
    assert names[:3] == ("candidate/item", "candidate/genres", "candidate/year")
    assert names[-3:] == ("simtier", "sequence/liked", "sequence/retrieved")


def test_flops_count_pairs_and_distinct_behaviours() -> None:
    layer = _layer()
    log = random_log(0)
    first = max(log.impressions, key=lambda i: i.request_time)
    # A second candidate of the same request reads the same behaviours.
    batch = make_batch(
        replace(log, impressions=(first, replace(first, item=first.item + 1))), Filling.POINTWISE, CONTENT
    )
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
