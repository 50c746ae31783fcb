"""LCA (EST, section 5.3): feature tokens attend to behaviours. Its rival of Table 4 is baselines/full_attention.py.

Legend: N impressions, L feature tokens, P behaviour tokens of one kind of sequence, D token width, H heads, E width of
a head.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ctr_rec.layers.behaviours import Sequences
from ctr_rec.layers.layout import Axes, within
from ctr_rec.layers.per_token import PerTokenLinear
from ctr_rec.ops.cross_attention import Backend, KeySet, cross_attention


def pairs_of(sequences: Sequences, num_impressions: int) -> int:
    """(impression, behaviour) pairs."""
    lengths_S = sequences.offsets_S1.diff()
    if sequences.segment_N is None:
        return int(lengths_S.sum())
    return int(lengths_S[sequences.segment_N].sum()) if num_impressions else 0


class LCA(nn.Module):
    """out_i = softmax(N_i W_i^Q (B W^K)^T / sqrt(E)) B W^V W_i^O, one softmax over all kinds of sequences.

    W^Q and W^O are of each feature token's own, W^K and W^V shared: what is made of B_u serves all candidates. An
    impression without any behaviour gets zeros [ours].
    """

    def __init__(self, names: tuple[str, ...], width: int, heads: int, backend: Backend) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.backend: Backend = backend
        self.query = PerTokenLinear(names, width, width)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = PerTokenLinear(names, width, width)

    def forward(self, n_NLD: Tensor, behaviours: Sequence[Tensor], sequences: Sequence[Sequences]) -> Tensor:
        q_NLHE = self.query(n_NLD).unflatten(-1, (self.heads, -1))
        sets = []
        for x_PD, of in zip(behaviours, sequences, strict=True):
            k_PHE, v_PHE = (x.unflatten(-1, (self.heads, -1)) for x in self.key_value(x_PD).chunk(2, dim=-1))
            sets.append(KeySet(k_PHE, v_PHE, of.offsets_S1, of.segment_N))
        scale = (self.width // self.heads) ** -0.5
        return self.out(cross_attention(q_NLHE, sets, scale, self.backend).flatten(2))

    def axes(self) -> dict[str, Axes]:
        return within("query", self.query.axes()) | within("out", self.out.axes())

    def flops(self, num_impressions: int, sequences: Sequence[Sequences]) -> int:
        total = self.query.flops(num_impressions) + self.out.flops(num_impressions)
        for of in sequences:
            total += 2 * len(of.position_P) * self.width * 2 * self.width
            total += 4 * pairs_of(of, num_impressions) * len(self.query.names) * self.width
        return total
