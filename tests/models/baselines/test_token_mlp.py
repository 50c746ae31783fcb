"""The MLP over tokens: their formula, switches and empty batches."""

from __future__ import annotations

import pytest
import torch

from ctr_rec.errors import ConfigError
from ctr_rec.layers.compressed import CompressedTokens
from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.baselines.token_mlp import TokenMLPConfig
from ctr_rec.models.tower import Filling
from tests.models.edges import check_edges, check_switch
from tests.models.streams import CHANNELS, SPEC, Scorer, look_up, make_batch, random_log

CONFIG = TokenMLPConfig(tokens=TokenSettings(width=5, recent="all"), mlp=MLPSettings(hidden=(6, 4), dropout=0.0))


def test_is_an_mlp_over_all_tokens_side_by_side() -> None:
    scorer = Scorer(CONFIG)
    batch = scorer.batch(random_log(0))
    embedded = look_up(batch)
    inputs = scorer.tower.inputs
    assert isinstance(inputs, CompressedTokens)
    first, _, second, _ = scorer.tower.mlp.layers
    expected = []
    for tokens in inputs(embedded, batch):
        x = torch.cat([token for token in tokens])
        hidden = (first.weight @ x + first.bias).clamp(min=0)
        expected.append((second.weight @ hidden + second.bias).clamp(min=0))
    torch.testing.assert_close(scorer.tower(embedded, batch), torch.stack(expected), rtol=0, atol=1e-12)


def test_flops_count_tokens_and_mlp() -> None:
    tower = CONFIG.build(SPEC, tuple(CHANNELS))
    batch = make_batch(random_log(0), Filling.POINTWISE)
    # Three of the item, one request feature, two counters, two of the user, three of the clock, one sequence.
    dense = 2 * batch.num_impressions * (12 * 5 * 6 + 6 * 4)
    assert tower.flops(batch) == tower.inputs.flops(batch) + dense


@pytest.mark.parametrize("switch", ["use_action", "use_profile", "use_request", "use_counters", "use_time"])
def test_each_switch_removes_its_input(switch: str) -> None:
    check_switch(CONFIG, switch)


def test_edges() -> None:
    check_edges(CONFIG)


def test_a_missing_channel_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"MLP over tokens reads the channel 'recent', data\.channels has"):
        TokenMLPConfig().build(SPEC, tuple(CHANNELS))
