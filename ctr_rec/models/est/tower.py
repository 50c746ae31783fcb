"""EST (arXiv 2602.10811): feature tokens that attend to behaviours, behaviours that attend by content.

    features ──► N ──► LCA ──► per-token FFN ──► N ...        tokens, [N, L, D]
                        ▲                                                          head: [N, mean B]
    recent, retrieved ► B ──► CSA ──► shared FFN ──► B ...    jagged, each distinct sequence once

No behaviour reads a feature token, so what is made of a user's recent behaviours in every layer serves all candidates
of a request, in training as in scoring; a batch holds each distinct sequence once and need not be told.

Legend: N impressions, L feature tokens, S sequences, P behaviour tokens of one kind of sequence, D token width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctr_rec.batch.batch import Batch
from ctr_rec.layers.behaviours import Sequences
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.layout import Axes, within
from ctr_rec.layers.token_head import TokenHead
from ctr_rec.layers.token_inputs import Behaviours, TokenInputs
from ctr_rec.layers.token_rows import mean_behaviour
from ctr_rec.models.est.config import ESTSettings
from ctr_rec.models.est.layer import ESTLayer
from ctr_rec.models.tower import Tower
from ctr_rec.ops.content_neighbours import Neighbours, neighbours
from ctr_rec.schema.table import SparseSpec


class ESTConfig(ESTSettings):
    """EST as a recipe names it: see `ESTSettings` for what each field means."""

    def build(self, spec: SparseSpec, channels: tuple[str, ...]) -> ESTTower:
        return ESTTower(spec, self, channels)


class ESTTower(Tower):
    """[N, out_width]: the MLP of [N^(S), mean B^(S)], the mean over all behaviours of an impression together."""

    def __init__(self, spec: SparseSpec, config: ESTSettings, channels: tuple[str, ...]) -> None:
        super().__init__()
        self.config = config
        self.tokens = TokenInputs(spec, config.tokens, channels, "EST")
        self.names = self.tokens.names
        self.layers = nn.ModuleList(ESTLayer(self.names, config) for _ in range(config.layers))
        self.head = TokenHead(self.names, config.tokens.width, config.mlp)
        self.out_width = self.head.out_width

    def forward(self, embedded: Embedded, batch: Batch) -> Tensor:
        tokens = self.tokens(embedded, batch)
        read = list(tokens.behaviours.values())
        n_NLD, behaviours, sequences = tokens.features_NLD, [b.x_PD for b in read], [b.sequences for b in read]
        near = [self._neighbours(of, batch) for of in sequences]
        for layer in self.layers:
            n_NLD, behaviours = layer(n_NLD, behaviours, sequences, near)
        return self.head(n_NLD, mean_behaviour(*map(Behaviours, behaviours, sequences)))

    def _neighbours(self, of: Sequences, batch: Batch) -> Neighbours | None:
        """Once per sequence for all layers; no parameter is in them and no gradient passes (section 5.4)."""
        if not self.config.csa:
            return None
        item_P = batch.event_item[of.position_P]
        return neighbours(self.tokens.content(batch), item_P, of.offsets_S1, self.config.neighbours)

    def axes(self) -> dict[str, Axes]:
        found = within("tokens", self.tokens.axes())
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, ESTLayer)
            found |= within(f"layers.{number}", layer.axes())
        return found | within("head", self.head.axes())

    def flops(self, batch: Batch) -> int:
        """Of what depends on learnt weights: comparing contents is counted apart, see `content_flops`."""
        sequences = self._sequences(batch)
        total = self.tokens.flops(batch) + self.head.flops(batch.num_impressions)
        for layer in self.layers:
            assert isinstance(layer, ESTLayer)
            total += layer.flops(batch.num_impressions, sequences)
        return total + self._csa_flops(sequences)

    def _csa_flops(self, sequences: list[Sequences]) -> int:
        """Of CSA's weighted sums, in all layers."""
        if not self.config.csa:
            return 0
        length_S = torch.cat([of.offsets_S1.diff() for of in sequences])
        kept = int((length_S * length_S.clamp(max=self.config.neighbours)).sum())
        return self.config.layers * 2 * kept * self.config.tokens.width

    def content_flops(self, batch: Batch) -> dict[str, int]:
        """Of comparing frozen vectors, which can be done ahead of a request. csa: its similarity matrix, quadratic in
        the length of a sequence; the paper prints its cost as linear in the length and quadratic in the vectors' width.
        """
        found = self.tokens.content_flops(batch)
        if self.config.csa:
            square = sum(int(of.offsets_S1.diff().square().sum()) for of in self._sequences(batch))
            found["csa"] = 2 * square * self.tokens.content(batch).shape[1]
        return found

    def _sequences(self, batch: Batch) -> list[Sequences]:
        return list(self.tokens.sequences(batch).sequences.values())
