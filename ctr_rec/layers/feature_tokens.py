"""One token for every raw feature of an impression (EST, arXiv 2602.10811, section 4.2: no grouping).

Legend: M distinct items, N impressions, U users, L tokens, D token width, W width of one feature.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctr_rec.batch.batch import Batch
from ctr_rec.layers.context import ContextSettings
from ctr_rec.layers.embedding import Embedded
from ctr_rec.layers.fields import feature_width, one_feature
from ctr_rec.layers.layout import Axes
from ctr_rec.layers.time import RequestTime
from ctr_rec.ops.jagged import gather
from ctr_rec.schema.log import Feature
from ctr_rec.schema.table import SparseSpec

_CLOCK = ("time/hour", "time/weekday", "time/gap")


class FeatureMLP(nn.Module):
    """MLP_i of one feature, [rows, W] -> [rows, D]: two layers. Their number and sizes are not stated [ours]."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.in_width, self.width = in_width, width
        self.first = nn.Linear(in_width, width)
        self.second = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(functional.silu(self.first(x)))

    def flops(self, rows: int) -> int:
        return 2 * rows * self.width * (self.in_width + self.width)


class FeatureTokens(nn.Module):
    """[N, L, D]: candidate's item features, request features, counters, profile, and hour, weekday and gap.

    Each goes through an MLP of its own, the candidate's once per distinct item and the profile's once per user.
    `names`: of the tokens, in order; what a feature's token is made of depends on no other feature, so that one more
    feature changes no parameter there was. item: features of the candidate that become tokens.
    """

    def __init__(self, spec: SparseSpec, settings: ContextSettings, item: Sequence[Feature], width: int) -> None:
        super().__init__()
        self.width = width
        self.item = tuple(item)
        self.request = spec.impression if settings.use_request else ()
        self.counters = spec.counters if settings.use_counters else ()
        self.profile = spec.user if settings.use_profile else ()
        self.time = RequestTime(settings.time_dim, spec.ticks_per_second, settings.ages) if settings.use_time else None
        widths = {f"candidate/{f.name}": feature_width(spec, f) for f in self.item}
        widths |= {f"request/{f.name}": feature_width(spec, f) for f in self.request}
        widths |= {f"counter/{name}": 1 for name in self.counters}
        widths |= {f"user/{f.name}": feature_width(spec, f) for f in self.profile}
        widths |= dict.fromkeys(_CLOCK, settings.time_dim) if self.time is not None else {}
        self.names = tuple(widths)
        self.mlps = nn.ModuleDict({name: FeatureMLP(own, width) for name, own in widths.items()})

    def forward(self, embedded: Embedded, batch: Batch) -> Tensor:
        found = {}
        for f in self.item:
            token_MD = self._token(f"candidate/{f.name}", one_feature(f, embedded.items, batch.items))
            found[f"candidate/{f.name}"] = gather(token_MD, batch.impression_item)
        for f in self.request:
            part = one_feature(f, embedded.impressions, batch.impressions)
            found[f"request/{f.name}"] = self._token(f"request/{f.name}", part)
        for name in self.counters:
            found[f"counter/{name}"] = self._token(f"counter/{name}", batch.impressions.numbers[name].unsqueeze(-1))
        for f in self.profile:
            token_UD = self._token(f"user/{f.name}", one_feature(f, embedded.users, batch.users))
            found[f"user/{f.name}"] = gather(token_UD, batch.impression_user)
        if self.time is not None:
            for name, part in zip(_CLOCK, self.time(batch).chunk(3, dim=-1), strict=True):
                found[name] = self._token(name, part)
        return torch.stack([found[name] for name in self.names], dim=1)

    def _token(self, name: str, x: Tensor) -> Tensor:
        mlp = self.mlps[name]
        assert isinstance(mlp, FeatureMLP)
        return mlp(x.to(mlp.first.weight.dtype))

    def axes(self) -> dict[str, Axes]:
        """All of them, so that a model may grow by a token: a new one begins as zeros, and no old one is wider."""
        return {name: (None,) * p.dim() for name, p in self.mlps.named_parameters(prefix="mlps")}

    def flops(self, batch: Batch) -> int:
        rows = {"candidate": batch.item.shape[0], "user": batch.num_users}
        total = 0
        for name, mlp in self.mlps.items():
            assert isinstance(mlp, FeatureMLP)
            total += mlp.flops(rows.get(name.split("/")[0], batch.num_impressions))
        return total
