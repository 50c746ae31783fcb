"""One block of EST (section 5.1): attention of both kinds of tokens from the layer before, then an FFN for each.

Legend: N impressions, L feature tokens, P behaviour tokens of one kind of sequence, D token width.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ctr_rec.layers.behaviours import Sequences
from ctr_rec.layers.layout import Axes, within
from ctr_rec.layers.per_token import PerTokenSwiGLU, SwiGLU
from ctr_rec.models.est.attention import LCA
from ctr_rec.models.est.config import ESTSettings
from ctr_rec.ops.content_neighbours import Neighbours, neighbour_sum


class ESTLayer(nn.Module):
    """N + LCA(Norm N, Norm B) and B + CSA(Norm B), both of the layer before; then N + per-token FFN(Norm N) and
    B + shared FFN(Norm B).
    """

    def __init__(self, names: tuple[str, ...], config: ESTSettings) -> None:
        super().__init__()
        width = config.tokens.width
        self.names = names
        self.lca = LCA(names, width, config.heads, config.attention)
        self.norm_n, self.norm_b = config.norm.module(width), config.norm.module(width)
        self.norm_n_ffn, self.norm_b_ffn = config.norm.module(width), config.norm.module(width)
        self.ffn_n = PerTokenSwiGLU(names, width, config.inner)
        self.ffn_b = SwiGLU(width, config.inner)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        n_NLD: Tensor,
        behaviours: Sequence[Tensor],
        sequences: Sequence[Sequences],
        neighbours: Sequence[Neighbours | None],
    ) -> tuple[Tensor, list[Tensor]]:
        """behaviours, sequences, neighbours: one of each for each kind of sequence. neighbours None: no CSA."""
        normed_NLD, normed = self.norm_n(n_NLD), [self.norm_b(x_PD) for x_PD in behaviours]
        n_NLD = n_NLD + self.dropout(self.lca(normed_NLD, normed, sequences))
        attended = list(behaviours)
        for i, (normed_PD, of) in enumerate(zip(normed, neighbours, strict=True)):
            if of is not None:
                attended[i] = attended[i] + neighbour_sum(normed_PD, of)
        n_NLD = n_NLD + self.dropout(self.ffn_n(self.norm_n_ffn(n_NLD)))
        return n_NLD, [x_PD + self.dropout(self.ffn_b(self.norm_b_ffn(x_PD))) for x_PD in attended]

    def axes(self) -> dict[str, Axes]:
        return within("ffn_n", self.ffn_n.axes()) | within("lca", self.lca.axes())

    def flops(self, num_impressions: int, sequences: Sequence[Sequences]) -> int:
        """Of the products; the sums of CSA are the tower's to count."""
        total = self.ffn_n.flops(num_impressions)
        total += sum(self.ffn_b.flops(len(of.position_P)) for of in sequences)
        return total + self.lca.flops(num_impressions, sequences)
