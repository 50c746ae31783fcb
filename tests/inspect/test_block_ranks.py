"""Effective ranks against singular values, one impression and head at a time."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch

from ctr_rec.inspect.block_ranks import BlockRanks, effective_rank
from ctr_rec.models.baselines.full_attention import Block, FullAttentionTower, Projected
from tests.models.baselines.test_full_attention import SMALL
from tests.models.streams import Scorer, look_up, random_log


@pytest.mark.parametrize("shape", [(1, 1), (4, 2), (2, 5), (3, 3)])
def test_effective_rank_is_of_singular_values(shape: tuple[int, int]) -> None:
    h = torch.rand(6, *shape, dtype=torch.float64)
    singular = torch.linalg.svdvals(h)
    expected = singular.square().sum(-1) / singular[:, 0].square() / max(shape)
    torch.testing.assert_close(effective_rank(h), expected, rtol=0, atol=1e-12)


def test_of_alike_rows_of_the_identity_and_of_nothing() -> None:
    alike = torch.rand(1, 5, dtype=torch.float64).expand(3, 5)
    cases = torch.stack([torch.eye(3, 5, dtype=torch.float64), alike, torch.zeros(3, 5, dtype=torch.float64)])
    assert effective_rank(cases).tolist() == pytest.approx([3 / 5, 1 / 5, 0.0])


def test_means_over_impressions_heads_and_blocks() -> None:
    scorer = Scorer(SMALL)
    tower = scorer.tower
    assert isinstance(tower, FullAttentionTower)
    batch = scorer.batch(random_log(0))
    real_N = torch.arange(batch.num_impressions) % 3 != 1
    ranks, expected, alike = BlockRanks(2), defaultdict(list), defaultdict(list)

    def watch(depth: int, found: Projected) -> None:
        ranks.add(depth, found, real_N)
        bounds = found.offsets_N1.tolist()
        for n in real_N.nonzero().flatten().tolist():
            b = slice(bounds[n], bounds[n + 1])
            num_b = b.stop - b.start
            for h in range(2):
                q, k = (torch.cat([found.b[i][b, h], found.n[i][n, :, h]]) for i in (0, 1))
                a = (q @ k.T / 3**0.5).softmax(-1)
                parts = {
                    Block.BB: a[:num_b, :num_b],
                    Block.BN: a[:num_b, num_b:],
                    Block.NN: a[num_b:, num_b:],
                    Block.NB: a[num_b:, :num_b],
                }
                for block, part in parts.items():
                    if part.numel():
                        singular = torch.linalg.svdvals(part)
                        expected[block, depth].append(singular.square().sum() / singular[0] ** 2 / max(part.shape))
                        alike[block].append(1 / max(part.shape))

    with torch.no_grad():
        tower(look_up(batch), batch, watch)
    lengths = batch.histories["all"].lengths()[real_N]
    assert 0 < int((lengths == 0).sum()) < len(lengths)
    assert ranks.impressions[Block.NN] == len(lengths)
    assert ranks.impressions[Block.NB] == int((lengths > 0).sum())
    for block, (by_layer, even) in ranks.means().items():
        for depth, value in enumerate(by_layer):
            assert value == pytest.approx(float(torch.stack(expected[block, depth]).mean()), abs=1e-12)
        assert even == pytest.approx(sum(alike[block]) / len(alike[block]))


def test_a_block_that_nobody_has_is_left_out() -> None:
    q = torch.randn(2, 3, 1, 4)
    nothing = torch.randn(0, 1, 4)
    ranks = BlockRanks(1)
    ranks.add(
        0, Projected((q, q, q), (nothing, nothing, nothing), torch.zeros(3, dtype=torch.int64)), torch.ones(2) > 0
    )
    assert list(ranks.means()) == [Block.NN]
