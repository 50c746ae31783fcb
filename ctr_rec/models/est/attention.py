"""LCA (EST, section 5.3): feature tokens attend to behaviours. Its rival of Table 4 is baselines/full_attention.py.

Legend: N impressions, L feature tokens, R behaviour tokens of one kind, P places of the sequences that read them (R
where each token stands in one sequence), D token width, H heads, E width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ctr_rec.layers.behaviours import Sequences
from ctr_rec.layers.layout import Axes, within
from ctr_rec.layers.per_token import PerTokenLinear
from ctr_rec.models.est.kind import Kind
from ctr_rec.ops.cross_attention import Backend, KeySet, cross_attention
from ctr_rec.ops.jagged import gather


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

    def forward(self, n_NLD: Tensor, behaviours: Sequence[Tensor], kinds: Sequence[Kind]) -> Tensor:
        q_NLHE = self.query(n_NLD).unflatten(-1, (self.heads, -1))
        sets = []
        for x_RD, kind in zip(behaviours, kinds, strict=True):
            pair_P2D = self._keys_and_values(x_RD, kind).chunk(2, dim=-1)
            k_PHE, v_PHE = (x.unflatten(-1, (self.heads, -1)) for x in pair_P2D)
            sets.append(KeySet(k_PHE, v_PHE, kind.sequences.offsets_S1, kind.sequences.segment_N))
        scale = (self.width // self.heads) ** -0.5
        return self.out(cross_attention(q_NLHE, sets, scale, self.backend).flatten(2))

    def _keys_and_values(self, x_RD: Tensor, kind: Kind) -> Tensor:
        """[P, 2 D]. Each token's once, whoever reads it; places are of its reader's sequence and join by their sum, as
        the projection of a sum is the sum of projections.
        """
        x_P2D = self.key_value(x_RD)
        if kind.streamed is None:
            return x_P2D
        x_P2D = gather(x_P2D, kind.sequences.position_P)
        for table_OD, row_P in kind.streamed.places:
            x_P2D = x_P2D + gather(self.key_value(table_OD), row_P)
        return x_P2D

    def axes(self) -> dict[str, Axes]:
        return within("query", self.query.axes()) | within("out", self.out.axes())

    def flops(self, num_impressions: int, kinds: Sequence[Kind]) -> int:
        total = self.query.flops(num_impressions) + self.out.flops(num_impressions)
        for kind in kinds:
            total += 2 * kind.num_projected * self.width * 2 * self.width
            total += 4 * pairs_of(kind.sequences, num_impressions) * len(self.query.names) * self.width
        return total
