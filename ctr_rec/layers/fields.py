"""From the features of one level to one vector per row: embeddings, numbers and content vectors side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ctr_rec.batch.batch import Level
from ctr_rec.layers.layout import Layout
from ctr_rec.schema.log import Feature, Kind
from ctr_rec.schema.table import SparseSpec


def feature_width(spec: SparseSpec, feature: Feature) -> int:
    """Width of one feature: its table's, its vector's, or 1 for a number."""
    if feature.table is not None:
        return spec.table(feature.table).dim
    return feature.dim if feature.kind is Kind.VECTOR and feature.dim is not None else 1


def width(spec: SparseSpec, features: Sequence[Feature], counters: Sequence[str] = ()) -> int:
    """Width of `join` over these features and counters."""
    return sum(feature_width(spec, f) for f in features) + len(counters)


def layout(spec: SparseSpec, level: str, features: Sequence[Feature], counters: Sequence[str] = ()) -> Layout:
    """What `join` puts where, by `<level>.<feature>`."""
    parts = [(f"{level}.{f.name}", feature_width(spec, f)) for f in features]
    return (*parts, *((f"{level}.{name}", 1) for name in counters))


def join(
    features: Sequence[Feature], embedded: dict[str, Tensor], level: Level, rows: int, counters: Sequence[str] = ()
) -> Tensor:
    """Concatenates a level's features in declared order, then its counters. Shape [rows, width]; [rows, 0] if none."""
    parts = [one_feature(f, embedded, level) for f in features] + [level.numbers[c].unsqueeze(-1) for c in counters]
    if parts:
        return torch.cat(parts, dim=-1)
    like = next(iter(embedded.values()), None)
    return torch.zeros(rows, 0, device=like.device if like is not None else None)


def one_feature(feature: Feature, embedded: dict[str, Tensor], level: Level) -> Tensor:
    """What `join` takes of one feature: its embedding, vector or number, [rows, its width]."""
    if feature.table is not None:
        return embedded[feature.name]
    if feature.kind is Kind.VECTOR:
        return level.vectors[feature.name]
    return level.numbers[feature.name].unsqueeze(-1)
