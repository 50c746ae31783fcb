"""DCN-V2 over tokens: crosses by loops, both structures, switches and empty batches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ctr_rec.layers.cross import CrossLayer
from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.baselines.dcn_v2 import DCNv2Tower, Structure
from ctr_rec.models.baselines.token_dcn_v2 import TokenDCNv2Config
from ctr_rec.models.tower import Filling
from tests.models.edges import check_edges, check_switch
from tests.models.streams import CHANNELS, SPEC, Scorer, look_up, make_batch, random_log

CONFIG = TokenDCNv2Config(tokens=TokenSettings(width=4, recent="all"), mlp=MLPSettings(hidden=(6,), dropout=0.0))


def _crossed(tower: DCNv2Tower, x0: Tensor) -> Tensor:
    """Number by number: x_{l+1} = x_l + x_0 (W_l x_l + b_l)."""
    x = x0
    for layer in tower.cross.layers:
        assert isinstance(layer, CrossLayer)
        w = layer.up.weight if layer.down is None else layer.up.weight @ layer.down.weight
        x = torch.stack([x[i] + x0[i] * (w[i].dot(x) + layer.up.bias[i]) for i in range(len(x0))])
    return x


@pytest.mark.parametrize("rank", [None, 3])
@pytest.mark.parametrize("structure", list(Structure))
def test_equals_its_formula(structure: Structure, rank: int | None) -> None:
    scorer = Scorer(CONFIG.model_copy(update={"structure": structure, "rank": rank}))
    tower = scorer.tower
    assert isinstance(tower, DCNv2Tower)
    batch = scorer.batch(random_log(0))
    embedded = look_up(batch)
    linear = tower.mlp.layers[0]
    expected = []
    for tokens in tower.inputs(embedded, batch):
        x0 = torch.cat([token for token in tokens])
        crossed = _crossed(tower, x0)
        deep = x0 if structure is Structure.PARALLEL else crossed
        hidden = (linear.weight @ deep + linear.bias).clamp(min=0)
        expected.append(torch.cat([crossed, hidden]) if structure is Structure.PARALLEL else hidden)
    torch.testing.assert_close(tower(embedded, batch), torch.stack(expected), rtol=0, atol=1e-11)


def test_flops_count_tokens_crosses_and_mlp() -> None:
    tower = CONFIG.build(SPEC, tuple(CHANNELS))
    batch = make_batch(random_log(0), Filling.POINTWISE)
    wide = 12 * 4
    dense = batch.num_impressions * (3 * (2 * wide * wide + 2 * wide) + 2 * wide * 6)
    assert tower.flops(batch) == tower.inputs.flops(batch) + dense


@pytest.mark.parametrize("switch", ["use_action", "use_profile", "use_request", "use_counters", "use_time"])
def test_each_switch_removes_its_input(switch: str) -> None:
    check_switch(CONFIG, switch)


@pytest.mark.parametrize("structure", list(Structure))
def test_edges(structure: Structure) -> None:
    check_edges(CONFIG.model_copy(update={"structure": structure}))
