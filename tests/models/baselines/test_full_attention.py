"""Full attention against its formula, one impression at a time with plain loops; masks, ablations, empty batches."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from ctr_rec.batch.batch import Batch
from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.baselines.full_attention import Block, FullAttentionConfig, FullAttentionTower, Mask
from ctr_rec.models.tower import Filling
from tests.models.edges import check_edges
from tests.models.streams import Scorer, look_up, make_batch, random_log

D, H = 6, 2
SMALL = FullAttentionConfig(
    tokens=TokenSettings(width=D, recent="all"), layers=2, heads=H, ffn=5, mlp=MLPSettings(hidden=(4,), dropout=0.0)
)


def _scorer(config: FullAttentionConfig = SMALL) -> tuple[Scorer, FullAttentionTower]:
    scorer = Scorer(config)
    assert isinstance(scorer.tower, FullAttentionTower)
    return scorer, scorer.tower


def _batch() -> Batch:
    return make_batch(random_log(0, num_users=3, num_events=5), Filling.POINTWISE)


def _by_loops(tower: FullAttentionTower, batch: Batch, mask: Mask) -> Tensor:
    """Section 4.1 for each impression alone: X = [B; N], a loop over queries and one over keys."""
    tokens = tower.inputs(look_up(batch), batch)
    recent = tokens.behaviours["all"]
    assert recent.sequences.segment_N is not None
    bounds, segments = recent.sequences.offsets_S1.tolist(), recent.sequences.segment_N.tolist()
    out = []
    for n in range(batch.num_impressions):
        b = recent.x_PD[bounds[segments[n]] : bounds[segments[n] + 1]]
        x = torch.cat([b, tokens.features_NLD[n]])
        num_b = len(b)
        for layer in tower._layers():
            norms = [layer.norm_b] * num_b + [layer.norm_n] * (len(x) - num_b)
            y = torch.stack([norm(row) for norm, row in zip(norms, x, strict=True)])
            q, k, v = (part.view(-1, H, D // H) for part in (y @ layer.qkv.weight.T).split(D, dim=1))
            attended = torch.zeros(len(x), H, D // H, dtype=x.dtype)
            for i in range(len(x)):
                blocks = [Block(("b" if i < num_b else "n") + ("b" if j < num_b else "n")) for j in range(len(x))]
                e_XH = ((q[i] * k).sum(-1) / math.sqrt(D / H)).exp()
                left = [j for j, block in enumerate(blocks) if block not in mask.blocks]
                total_H = sum(e_XH[j] for j in (left if mask.renormalise else range(len(x))))
                for j in left:
                    attended[i] = attended[i] + (e_XH[j] / total_H).unsqueeze(-1) * v[j]
            x = x + attended.flatten(1)
            rows = []
            for i, row in enumerate(x):
                if i < num_b:
                    rows.append(row + layer.ffn_b(layer.ffn_norm_b(row)))
                    continue
                z, ffn = layer.ffn_norm_n(row), layer.ffn_n
                gate, up = (z @ ffn.gate_and_up.weight_LDE[i - num_b]).chunk(2)
                rows.append(row + (torch.sigmoid(gate) * gate * up) @ ffn.out.weight_LDE[i - num_b])
            x = torch.stack(rows)
        mean = x[:num_b].mean(0) if num_b else torch.zeros(D, dtype=x.dtype)
        out.append(tower.head.mlp(torch.cat([x[num_b:].flatten(), mean])))
    return torch.stack(out)


def test_equals_the_formula() -> None:
    _, tower = _scorer()
    batch = _batch()
    got, expected = tower(look_up(batch), batch), _by_loops(tower, batch, Mask())
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    wanted, weights = list(tower.parameters()), torch.randn_like(got)
    for ours, theirs in zip(
        torch.autograd.grad((got * weights).sum(), wanted),
        torch.autograd.grad((expected * weights).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


MASKS = [
    Mask(frozenset(blocks), renormalise)
    for blocks in ((Block.BB,), (Block.BN,), (Block.NN,), (Block.NB,), (Block.BB, Block.BN), (Block.NN, Block.BB))
    for renormalise in (True, False)
]


@pytest.mark.parametrize("mask", MASKS)
def test_masked_blocks(mask: Mask) -> None:
    """At test time as in training; without behaviours <N, N> masked leaves nothing, and nothing is added."""
    _, tower = _scorer()
    batch = _batch()
    whole = tower(look_up(batch), batch)
    tower.mask = mask
    got = tower(look_up(batch), batch)
    torch.testing.assert_close(got, _by_loops(tower, batch, mask), rtol=0, atol=1e-12)
    assert (got - whole).abs().max() > 1e-6
    changed = SMALL.model_copy(update={"masked": tuple(mask.blocks), "renormalise": mask.renormalise})
    other, trained = _scorer(changed)
    other.load_state_dict(Scorer(SMALL).state_dict())
    assert torch.equal(trained(look_up(batch), batch), got)


def test_masking_everything_is_refused() -> None:
    with pytest.raises(ValidationError, match="masks all four blocks, which leaves no attention to train"):
        FullAttentionConfig(masked=tuple(Block))
    FullAttentionConfig(masked=(Block.BB, Block.BN, Block.NN, Block.NN))


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"heads is 4 and tokens\.width 6; choose a width that heads divide"):
        FullAttentionConfig(tokens=TokenSettings(width=6), heads=4)


def test_flops_count_every_pair_of_every_impression() -> None:
    _, tower = _scorer()
    batch = _batch()
    lengths = batch.histories["all"].lengths().tolist()
    tokens, expected = len(tower.inputs.names), 0
    for length in lengths:
        rows = length + tokens
        expected += 2 * (2 * rows * 3 * D * D + 2 * 2 * rows * rows * D + 2 * rows * 3 * D * 5)
        expected += 2 * (tokens + 1) * D * 4
    assert tower.flops(batch) == tower.inputs.flops(batch) + expected


def test_watch_sees_every_layer() -> None:
    _, tower = _scorer()
    batch = _batch()
    seen: dict[int, tuple[int, ...]] = {}
    tower(look_up(batch), batch, lambda depth, found: seen.update({depth: tuple(found.n[0].shape)}))
    assert seen == dict.fromkeys((0, 1), (batch.num_impressions, len(tower.inputs.names), H, D // H))


@pytest.mark.parametrize(
    "changed", [{}, {"masked": (Block.NB, Block.NN)}, {"masked": (Block.BB,), "renormalise": False}, {"heads": 1}]
)
def test_edges(changed: dict[str, object]) -> None:
    check_edges(SMALL.model_copy(update=changed))
