"""LONGER against its formula in plain loops; merging, who sees whom, FLOPs, empty batches."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import gelu

from ctr_rec.batch.batch import Batch
from ctr_rec.batch.request import request_batch
from ctr_rec.layers.behaviours import Sequences
from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.layers.retrieval import RetrievalSettings
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.baselines.longer import Groups, LongerConfig, LongerLayer, LongerTower
from ctr_rec.models.tower import Filling
from tests.models.edges import check_edges
from tests.models.flops import assert_flops_match
from tests.models.streams import SPEC, Scorer, look_up, make_batch, random_log

D, H = 6, 2
SMALL = LongerConfig(
    tokens=TokenSettings(width=D, recent="all"),
    merge=2,
    newest=1,
    layers=2,
    heads=H,
    ffn=5,
    mlp=MLPSettings(hidden=(4, 3), dropout=0.0),
)
CONFIGS = {
    "pairs": SMALL,
    "not merged, three layers": SMALL.model_copy(update={"merge": 1, "newest": 2, "layers": 3}),
    "one group, all kept": SMALL.model_copy(update={"merge": 5, "newest": 9, "heads": 3}),
}


def _attend(layer: LongerLayer, row: Tensor, keys: list[Tensor], heads: int) -> Tensor:
    """Pre-norm attention of one token, then the FFN; one key after another, all heads of it at once."""
    w_q, w_k, w_v = layer.qkv.s.weight.split(D)
    q_HE, total_H, seen_HE = (w_q @ layer.norm(row)).view(heads, -1), torch.zeros(heads), torch.zeros(heads, D // heads)
    for key in keys:
        normed = layer.norm(key)
        e_H = ((q_HE * (w_k @ normed).view(heads, -1)).sum(1) / math.sqrt(D / heads)).exp()
        total_H, seen_HE = total_H + e_H, seen_HE + e_H.unsqueeze(1) * (w_v @ normed).view(heads, -1)
    row = row + layer.out.weight @ (seen_HE / total_H.unsqueeze(1)).flatten()
    return row + layer.ffn_out.s(gelu(layer.ffn_in.s(layer.ffn_norm(row))))


def _by_loops(tower: LongerTower, batch: Batch) -> Tensor:
    """Each impression alone: H all merged tokens at first, then the newest; G sees all, H itself and older H."""
    config, tokens, out = tower.config, tower.inputs(look_up(batch), batch), []
    recent = tokens.behaviours["all"]
    assert recent.sequences.segment_N is not None
    for n in range(batch.num_impressions):
        s = int(recent.sequences.segment_N[n])
        b = list(recent.x_PD[int(recent.sequences.offsets_S1[s]) : int(recent.sequences.offsets_S1[s + 1])])
        h: list[Tensor] = []
        while b:
            newest, b = b[-config.merge :], b[: -config.merge]
            filled = [torch.zeros(D, dtype=torch.float64)] * (config.merge - len(newest)) + newest
            h.insert(0, tower.merge(torch.cat(filled)))
        g = list(tokens.features_NLD[n])
        for number, layer in enumerate(tower.layers):
            assert isinstance(layer, LongerLayer)
            first = max(0, len(h) - config.newest) if number == 0 else 0
            after = [_attend(layer, h[i], h[: i + 1], config.heads) for i in range(first, len(h))]
            g = [_attend(layer, row, [*g, *h], config.heads) for row in g]
            h = after
        out.append(tower.mlp(torch.cat(g)))
    return torch.stack(out)


def _tower(config: LongerConfig) -> LongerTower:
    tower = Scorer(config).tower
    assert isinstance(tower, LongerTower)
    return tower


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_the_formula(name: str) -> None:
    tower, batch = _tower(CONFIGS[name]), make_batch(random_log(0, num_users=3, num_events=4), Filling.POINTWISE)
    got, expected = tower(look_up(batch), batch), _by_loops(tower, batch)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-11)
    wanted, weights = list(tower.parameters()), torch.randn_like(got)
    for ours, theirs in zip(
        torch.autograd.grad((got * weights).sum(), wanted),
        torch.autograd.grad((expected * weights).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_groups_count_from_the_newest() -> None:
    sequences = Sequences(torch.arange(10, 18), torch.tensor([0, 7, 7, 8]), torch.tensor([2, 0]))
    groups = Groups.of(sequences, 3)
    assert groups.row_MK.tolist() == [[8, 8, 0], [1, 2, 3], [4, 5, 6], [8, 8, 7]]
    assert groups.sequences.position_P.tolist() == [10, 13, 16, 17]
    assert groups.sequences.offsets_S1.tolist() == [0, 3, 3, 4]
    assert groups.sequences.segment_N is sequences.segment_N


def test_the_sequence_does_not_see_global_tokens() -> None:
    tower, batch = _tower(CONFIGS["not merged, three layers"]), make_batch(random_log(0), Filling.POINTWISE)
    tokens = tower.inputs(look_up(batch), batch)
    recent = tokens.behaviours["all"]
    g_NLD = tokens.features_NLD.detach().requires_grad_()
    h, g = tower.merge(recent.x_PD), g_NLD
    stages = tower._stages(Groups.of(recent.sequences, 1).sequences)
    for layer, stage in zip(tower.layers[:-1], stages, strict=False):
        h, g = layer(h, g, stage)
    assert h.shape[0] > 0
    (grad,) = torch.autograd.grad(h.sum() + 0 * g.sum(), g_NLD)
    assert not grad.any()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("alone", [False, True], ids=["batch", "request"])
def test_flops(name: str, alone: bool) -> None:
    batch = make_batch(random_log(2, delay=1), Filling.POINTWISE)
    if alone:
        batch = request_batch(batch, int(batch.history_length.argmax()), candidates=5)
    # Global tokens among themselves are counted by einsum's products, everything else by the ops'.
    assert_flops_match(CONFIGS[name], SPEC, batch)


def test_a_request_pays_for_its_sequence_once() -> None:
    tower, batch = _tower(SMALL), make_batch(random_log(2), Filling.POINTWISE)
    n = int(batch.history_length.argmax())
    one, two, three = (tower.flops(request_batch(batch, n, candidates=c)) for c in (1, 2, 3))
    assert three - two == two - one < one


@pytest.mark.parametrize("name", ["pairs", "not merged, three layers"])
def test_edges(name: str) -> None:
    check_edges(CONFIGS[name])


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(
        ValidationError, match=r"LONGER reads one long history and searches none; set tokens\.retrieval"
    ):
        LongerConfig(tokens=TokenSettings(retrieval=RetrievalSettings()))
    with pytest.raises(ValidationError, match=r"heads is 4 and tokens\.width 6; choose a width that heads divide"):
        LongerConfig(tokens=TokenSettings(width=6), heads=4)
