"""Effective rank of the blocks of full attention (EST, arXiv 2602.10811, section 4.1, Figure 3).

    erank(H) = ||H||_F^2 / ||H||_2^2 / max(m, n) of a block H [m, n] of the attention matrix

1 / max(m, n) where all queries of the block look alike, min(m, n) / max(m, n) at most. Of each impression, layer and
head; a mean over heads, then over the impressions that have the block.

Legend: N impressions, B impressions of one length, H heads, E width of a head, X tokens, M by K one block.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ctr_rec.models.baselines.full_attention import Block, Projected

# Attention matrices of one round: 64 MB in float64.
_MOST_WEIGHTS = 2**23


def effective_rank(h_BMK: Tensor) -> Tensor:
    """Of each matrix, [...]; 0 for one of zeros. The squared spectral norm is an eigenvalue of the smaller Gram."""
    rows, columns = h_BMK.shape[-2:]
    small = h_BMK if rows <= columns else h_BMK.transpose(-1, -2)
    largest_B = torch.linalg.eigvalsh(small @ small.transpose(-1, -2))[..., -1]
    tiny = torch.finfo(h_BMK.dtype).tiny
    return h_BMK.square().sum((-1, -2)) / largest_B.clamp(min=tiny) / max(rows, columns)


@dataclass
class BlockRanks:
    """Sums of effective ranks over impressions, float64 [layers] each; alike: of a block whose queries look alike.

    impressions: that have the block; without behaviours there is <N, N> alone.
    """

    layers: int
    total: dict[Block, Tensor] = field(default_factory=dict)
    alike: dict[Block, float] = field(default_factory=dict)
    impressions: dict[Block, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for block in Block:
            self.total[block] = torch.zeros(self.layers, dtype=torch.float64)
            self.alike[block], self.impressions[block] = 0.0, 0

    def add(self, depth: int, found: Projected, real_N: Tensor) -> None:
        """One layer of a batch. real_N: bool, which impressions count. To be called for every layer."""
        length_N = found.offsets_N1.diff()
        tokens, heads = found.n[0].shape[1:3]
        for length in length_N[real_N].unique().tolist():
            of_length = ((length_N == length) & real_N).nonzero().squeeze(1)
            step = max(1, _MOST_WEIGHTS // (heads * (length + tokens) ** 2))
            for part_B in of_length.split(step):
                self._add(depth, _weights(found, part_B, length), length)

    def _add(self, depth: int, weight_BHXX: Tensor, length: int) -> None:
        of_b, of_n = slice(0, length), slice(length, None)
        count = weight_BHXX.shape[0]
        for block, rows, columns in (
            (Block.BB, of_b, of_b),
            (Block.BN, of_b, of_n),
            (Block.NN, of_n, of_n),
            (Block.NB, of_n, of_b),
        ):
            h_BHMK = weight_BHXX[:, :, rows, columns]
            if 0 in h_BHMK.shape:
                continue
            self.total[block][depth] += effective_rank(h_BHMK).mean(1).sum().cpu()
            if depth == 0:
                self.alike[block] += count / max(h_BHMK.shape[-2:])
                self.impressions[block] += count

    def means(self) -> dict[Block, tuple[list[float], float]]:
        """Of each block that there is: by layer, and where all its queries look alike."""
        return {
            block: ((self.total[block] / count).tolist(), self.alike[block] / count)
            for block, count in self.impressions.items()
            if count
        }


def _weights(found: Projected, part_B: Tensor, length: int) -> Tensor:
    """The whole attention matrix over [B; N] of impressions with `length` behaviours, float64 [B, H, X, X]."""
    row_BL = found.offsets_N1[part_B, None] + torch.arange(length, device=part_B.device)
    q_BXHE, k_BXHE, _ = (
        torch.cat([b[row_BL], n[part_B]], dim=1).double() for b, n in zip(found.b, found.n, strict=True)
    )
    return (torch.einsum("bqhe,bkhe->bhqk", q_BXHE, k_BXHE) * q_BXHE.shape[-1] ** -0.5).softmax(dim=-1)
