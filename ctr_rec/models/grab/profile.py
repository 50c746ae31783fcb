"""Profile tokens: every unchanging attribute of a user as a token of its own at the head of the user's segment.

    gender  age  city | a b c d        x (after b) attends to gender age city, a b, and x

From the paper's slides, which give no more than that. [ours] A profile token sees itself alone, so it goes through a
channel's layers once per user, whatever the user's length; full tokens of impressions see it, events do not. Its key
has position 0, time 0 and the action "none", as the full token's own key has: an attribute has no age, and which one it
is says the token. So profile keys lie beside the own key of each query, take no place in windows and need no mask.

Legend: U users, P profile features, N impressions, D width, W = hidden width + D.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctr_rec.batch.batch import Batch
from ctr_rec.errors import ConfigError
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.fields import feature_width, join
from ctr_rec.models.grab.config import GRABSettings
from ctr_rec.models.grab.tokenizer import GateMLP
from ctr_rec.schema.table import SparseSpec


class ProfileTokens(nn.Module):
    """[U, P, D], one token per user feature in the schema's order: first maps of their own, one gated half for all.

    A model with them cannot grow by a profile feature, since one more key changes every softmax, whatever its weights:
    no layout names these maps, so `--grow` refuses it.

    Raises ConfigError where the model reads no user feature.
    """

    def __init__(self, spec: SparseSpec, config: GRABSettings) -> None:
        super().__init__()
        if not spec.user:
            raise ConfigError(
                "tower.profile_tokens=True: expected at least one user feature, got none; set it to false, declare a "
                "user feature in the log's schema, or take one out of embedding.exclude"
            )
        self.features = spec.user
        self.width = config.width
        self.in_widths = [feature_width(spec, f) for f in spec.user]
        self.first = nn.ModuleDict(
            {f.name: nn.Linear(width, 2 * config.width) for f, width in zip(spec.user, self.in_widths, strict=True)}
        )
        self.gated = GateMLP(config.width, config.width)

    def forward(self, embedded: Embedded, batch: Batch) -> Tensor:
        dtype = self.gated.out.weight.dtype
        fields = [join((f,), embedded.users, batch.users, batch.num_users).to(dtype) for f in self.features]
        maps = self.first.values()
        return self.gated(torch.stack([one(x_UF) for one, x_UF in zip(maps, fields, strict=True)], dim=1))

    def flops(self, users: int) -> int:
        per_token = 2 * 2 * self.width * sum(self.in_widths) + 2 * len(self.features) * self.width * self.width
        return users * per_token
