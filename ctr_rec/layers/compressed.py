"""Feature tokens with every behaviour sequence compressed to one more token by DIN.

So EST (arXiv 2602.10811, section 5.1) gives behaviours to models that take no sequence: MLP, AutoInt, DCNv2, RankMixer,
HiFormer. How the candidate meets the sequence is not stated.

Legend: N impressions, L feature tokens, B behaviour sequences of an impression, D token width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctr_rec.batch.batch import Batch
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.layout import Axes, within
from ctr_rec.layers.multi_head_target import MultiHeadTargetAttention
from ctr_rec.layers.target_attention import TargetAttention, TargetAttentionSettings
from ctr_rec.layers.token_inputs import RETRIEVED, TokenInputs, TokenSettings
from ctr_rec.schema.table import SparseSpec


class CompressedTokens(nn.Module):
    """[N, L + B, D]: feature tokens, then one token per sequence, zeros for an empty one.

    Each sequence has an attention unit of its own (DIN's, see `TargetAttention`). [ours] Its target is the sum of the
    candidate's feature tokens: the last step of each token's MLP is linear, so the sum is a linear map of all of the
    candidate's features, and one feature more changes no other's parameters.

    retrieved: what compresses the retrieved behaviours in place of DIN's unit, where they are retrieved (SIM).
    names: of the tokens, in order. layout: of the tokens side by side.
    """

    def __init__(
        self,
        spec: SparseSpec,
        settings: TokenSettings,
        attention: TargetAttentionSettings,
        channels: tuple[str, ...],
        tower: str,
        retrieved: MultiHeadTargetAttention | None = None,
    ) -> None:
        super().__init__()
        self.inputs = TokenInputs(spec, settings, channels, tower)
        self.width = settings.width
        sequences = tuple(self.inputs.behaviours)
        units = {name: TargetAttention(self.width, attention, {}) for name in sequences}
        self.attention = nn.ModuleDict(units | {RETRIEVED: retrieved} if retrieved is not None else units)
        self.names = (*self.inputs.names, *(f"sequence/{name}" for name in sequences))
        self.layout = tuple((name, self.width) for name in self.names)
        self._of_candidate = sum(name.startswith("candidate/") for name in self.names)

    def forward(self, embedded: Embedded, batch: Batch) -> Tensor:
        tokens = self.inputs(embedded, batch)
        # Tokens of the candidate stand first.
        target_ND = tokens.features_NLD[:, : self._of_candidate].sum(dim=1)
        compressed = []
        for name, attention in self.attention.items():
            behaviours = tokens.behaviours[name]
            rows = behaviours.sequences.rows_of_impressions()
            compressed.append(attention(target_ND, behaviours.x_PD, *rows))
        return torch.cat([tokens.features_NLD, torch.stack(compressed, dim=1)], dim=1)

    def axes(self, tokens_meet: bool = False) -> dict[str, Axes]:
        """tokens_meet: see `TokenInputs.axes`."""
        return within("inputs", self.inputs.axes(tokens_meet))

    def flops(self, batch: Batch) -> int:
        total, sequences = self.inputs.flops(batch), self.inputs.sequences(batch).sequences
        for name, attention in self.attention.items():
            assert isinstance(attention, TargetAttention | MultiHeadTargetAttention)
            rows_P, _ = sequences[name].rows_of_impressions()
            total += attention.flops(batch.num_impressions, len(sequences[name].position_P), len(rows_P))
        return total
