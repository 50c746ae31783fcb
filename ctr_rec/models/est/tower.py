"""EST (arXiv 2602.10811): feature tokens that attend to behaviours, behaviours that attend by content.

    features ──► N ──► LCA ──► per-token FFN ──► N ...        tokens, [N, L, D]
                        ▲                                                          head: [N, mean B]
    recent, retrieved ► B ──► CSA ──► shared FFN ──► B ...    jagged, each distinct sequence once

No behaviour reads a feature token, so what is made of a user's recent behaviours in every layer serves all candidates
of a request, in training as in scoring; a batch holds each distinct sequence once and need not be told.

Legend: N impressions, L feature tokens, S sequences, P places in those of one kind, R its tokens, D token width.
"""

from __future__ import annotations

from torch import Tensor, nn

from ctr_rec.batch.batch import Batch
from ctr_rec.layers.behaviours import Sequences
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.history import EventVectors
from ctr_rec.layers.layout import Axes, within
from ctr_rec.layers.token_head import TokenHead
from ctr_rec.layers.token_inputs import TokenInputs
from ctr_rec.layers.token_rows import mean_behaviour
from ctr_rec.models.est.config import ESTSettings
from ctr_rec.models.est.kind import Kind, Streamed
from ctr_rec.models.est.layer import ESTLayer
from ctr_rec.models.tower import Tower
from ctr_rec.ops.content_neighbours import Neighbours, neighbours
from ctr_rec.ops.jagged import segment_of_row
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
        batch = self._with_histories(batch)
        read, events = self.tokens.sequences(batch, embedded), self.tokens.event_vectors(embedded, batch)
        n_NLD = self.tokens.feature_tokens(embedded, batch, read)
        behaviours = [self._tokens_of(name, events, of, batch) for name, of in read.sequences.items()]
        kinds = [
            Kind(of, self._neighbours(name, of, batch) if self.config.csa else None, self._streamed(name, of, batch))
            for name, of in read.sequences.items()
        ]
        for layer in self.layers:
            n_NLD, behaviours = layer(n_NLD, behaviours, kinds)
        return self.head(n_NLD, mean_behaviour(*(kind.read(x) for kind, x in zip(kinds, behaviours, strict=True))))

    # What the packed variant has otherwise (packed.py).

    def _with_histories(self, batch: Batch) -> Batch:
        """The batch with the histories that the tokens' channels name."""
        return batch

    def _tokens_of(self, name: str, events: EventVectors, of: Sequences, batch: Batch) -> Tensor:
        """Tokens of one kind, [R, D]."""
        return self.tokens.maker(name)(events, of, batch)

    def _streamed(self, name: str, of: Sequences, batch: Batch) -> Streamed | None:
        return None

    def _neighbours(self, name: str, of: Sequences, batch: Batch) -> Neighbours:
        """Once per sequence for all layers; no parameter is in them and no gradient passes (section 5.4)."""
        item_P = batch.event_item[of.position_P]
        return neighbours(self.tokens.content(batch), item_P, of.offsets_S1, self.config.neighbours)

    def _compared(self, name: str, of: Sequences, batch: Batch) -> Tensor:
        """With how many tokens CSA compares each token of a kind, int64 [R]."""
        return of.offsets_S1.diff()[segment_of_row(of.offsets_S1)]

    def axes(self) -> dict[str, Axes]:
        found = within("tokens", self.tokens.axes())
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, ESTLayer)
            found |= within(f"layers.{number}", layer.axes())
        return found | within("head", self.head.axes())

    def flops(self, batch: Batch) -> int:
        """Of what depends on learnt weights: comparing contents is counted apart, see `content_flops`."""
        batch = self._with_histories(batch)
        named = self.tokens.sequences(batch).sequences
        kinds = {name: Kind(of, None, self._streamed(name, of, batch)) for name, of in named.items()}
        streamed = tuple(name for name, kind in kinds.items() if kind.streamed is not None)
        total = self.tokens.flops(batch, streamed) + self.head.flops(batch.num_impressions)
        for layer in self.layers:
            assert isinstance(layer, ESTLayer)
            total += layer.flops(batch.num_impressions, list(kinds.values()))
        return total + self.csa_flops(batch)

    def csa_flops(self, batch: Batch) -> int:
        """Of CSA's weighted sums, in all layers; a part of `flops`."""
        kept = sum(int(length_R.clamp(max=self.config.neighbours).sum()) for length_R in self._all_compared(batch))
        return self.config.layers * 2 * kept * self.config.tokens.width

    def content_flops(self, batch: Batch) -> dict[str, int]:
        """Of comparing frozen vectors, which can be done ahead of a request. csa: its similarity matrix, quadratic in
        the length of a sequence; the paper prints its cost as linear in the length and quadratic in the vectors' width.
        """
        found = self.tokens.content_flops(self._with_histories(batch))
        if self.config.csa:
            pairs = sum(int(length_R.sum()) for length_R in self._all_compared(batch))
            found["csa"] = 2 * pairs * self.tokens.content(batch).shape[1]
        return found

    def _all_compared(self, batch: Batch) -> list[Tensor]:
        """`_compared` of every kind; none without CSA."""
        if not self.config.csa:
            return []
        batch = self._with_histories(batch)
        return [self._compared(name, of, batch) for name, of in self.tokens.sequences(batch).sequences.items()]
