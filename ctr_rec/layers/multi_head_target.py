"""Multi-head attention of one target to a jagged history, the exact search unit of SIM (arXiv 2006.05639, section 3.2).

Legend: N impressions, T behaviour tokens, P (impression, token) pairs, D width, H heads, E width of a head.
"""

from __future__ import annotations

from torch import Tensor, nn

from ctr_rec.layers.heads import head_width
from ctr_rec.ops.cross_attention import Backend, KeySet, cross_attention
from ctr_rec.ops.jagged import gather


class MultiHeadTargetAttention(nn.Module):
    """out_n = concat_h( softmax_p(W_q^h t_n . W_k^h x_p / sqrt(E)) W_v^h x_p ) W_o; [N, D], zeros without history.

    In the paper a head's output is the weighted sum of the tokens as they are, and heads lie side by side; here values
    are projected and the heads share the width D [ours], so that the result is one token.
    """

    def __init__(self, width: int, heads: int, backend: Backend = "auto") -> None:
        super().__init__()
        self.width, self.heads, self.scale = width, heads, head_width(heads, width) ** -0.5
        self.backend: Backend = backend
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, target_ND: Tensor, x_TD: Tensor, row_P: Tensor, offsets_N1: Tensor) -> Tensor:
        """row_P: of x_TD, one impression after another. offsets_N1: pairs of each impression."""
        q_N1HE = self.query(target_ND).unflatten(-1, (1, self.heads, -1))
        k_PHE, v_PHE = gather(self.key_value(x_TD), row_P).unflatten(-1, (2, self.heads, -1)).unbind(1)
        seen_N1HE = cross_attention(q_N1HE, [KeySet(k_PHE, v_PHE, offsets_N1)], self.scale, self.backend)
        return self.out(seen_N1HE.flatten(1))

    def flops(self, impressions: int, tokens: int, pairs: int) -> int:
        return 2 * self.width * (2 * impressions * self.width + 2 * tokens * self.width + 2 * pairs)
