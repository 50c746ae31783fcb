"""One block of EST (section 5.1): attention of both kinds of tokens from the layer before, then an FFN for each.

Legend: N impressions, L feature tokens, R behaviour tokens of one kind, D token width.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ctr_rec.layers.layout import Axes, within
from ctr_rec.layers.per_token import PerTokenSwiGLU, SwiGLU
from ctr_rec.models.est.attention import LCA
from ctr_rec.models.est.config import ESTSettings
from ctr_rec.models.est.kind import Kind
from ctr_rec.ops.content_neighbours import neighbour_sum


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
        self, n_NLD: Tensor, behaviours: Sequence[Tensor], kinds: Sequence[Kind]
    ) -> tuple[Tensor, list[Tensor]]:
        """behaviours: [R, D] of each kind."""
        normed_NLD, normed = self.norm_n(n_NLD), [self.norm_b(x_RD) for x_RD in behaviours]
        n_NLD = n_NLD + self.dropout(self.lca(normed_NLD, normed, kinds))
        attended = list(behaviours)
        for i, (normed_RD, kind) in enumerate(zip(normed, kinds, strict=True)):
            if kind.neighbours is not None:
                attended[i] = attended[i] + neighbour_sum(normed_RD, kind.neighbours)
        n_NLD = n_NLD + self.dropout(self.ffn_n(self.norm_n_ffn(n_NLD)))
        return n_NLD, [x_RD + self.dropout(self.ffn_b(self.norm_b_ffn(x_RD))) for x_RD in attended]

    def axes(self) -> dict[str, Axes]:
        return within("ffn_n", self.ffn_n.axes()) | within("lca", self.lca.axes())

    def flops(self, num_impressions: int, kinds: Sequence[Kind]) -> int:
        """Of the products; the sums of CSA are the tower's to count."""
        total = self.ffn_n.flops(num_impressions)
        total += sum(self.ffn_b.flops(kind.num_tokens) for kind in kinds)
        return total + self.lca.flops(num_impressions, kinds)
