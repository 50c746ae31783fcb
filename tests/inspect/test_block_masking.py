"""What masking costs: differences of exact metrics, intervals in pairs, and stand-ins that count nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ctr_rec.inspect.block_masking import MASKS, NOTHING, WAYS, BlockMasking
from ctr_rec.metrics.mergeable import all_metrics
from ctr_rec.models.baselines.full_attention import Block, Mask
from ctr_rec.models.tower import Filling
from tests.models.streams import make_batch, random_log


def test_masks_are_each_block_both_ways() -> None:
    assert len(set(MASKS)) == len(MASKS) == 1 + len(Block) * len(WAYS)


def test_differences_are_of_exact_metrics() -> None:
    torch.manual_seed(0)
    masking, kept, labels, users = BlockMasking(), {mask: [] for mask in MASKS}, [], []
    for seed in (0, 1):
        batch = make_batch(random_log(seed), Filling.POINTWISE)
        weight = torch.ones_like(batch.weight)
        weight[2] = 0
        batch = replace(batch, weight=weight, label=batch.label.float())
        logits = {mask: torch.randn(batch.num_impressions) for mask in MASKS}
        masking.add(logits, batch)
        real = weight > 0
        for mask in MASKS:
            kept[mask] += logits[mask][real].tolist()
        labels += batch.label[real].tolist()
        users += batch.user[batch.impression_user][real].tolist()
    effects = masking.effects(replicates=50)
    whole = all_metrics(labels, kept[NOTHING], users)
    for key, of_blocks in effects.differences.items():
        assert effects.metrics[key] == pytest.approx(whole[key])
        for block, ways in of_blocks.items():
            for way, interval in ways.items():
                masked = all_metrics(labels, kept[Mask(frozenset({block}), WAYS[way])], users)
                assert interval.value == pytest.approx(masked[key] - whole[key])
                assert interval.low <= interval.high


def test_a_mask_without_effect_has_an_interval_of_nothing() -> None:
    """Paired: the same users are drawn for both sides."""
    batch = make_batch(random_log(0), Filling.POINTWISE)
    batch = replace(batch, label=batch.label.float())
    logit = torch.randn(batch.num_impressions)
    masking = BlockMasking()
    masking.add(dict.fromkeys(MASKS, logit), batch)
    for ways in masking.effects(replicates=20).differences["auc"].values():
        assert {(i.value, i.low, i.high) for i in ways.values()} == {(0.0, 0.0, 0.0)}
