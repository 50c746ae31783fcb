"""The definitions, one segment at a time, in any dtype. Legend: see the package."""

import torch
from torch import Tensor


def _segments(values: Tensor, offsets_N1: Tensor) -> list[Tensor]:
    return list(values.split(offsets_N1.diff().tolist()))


def segment_sum(values_PD: Tensor, offsets_N1: Tensor) -> Tensor:
    sums = [segment.sum(dim=0) for segment in _segments(values_PD, offsets_N1)]
    return torch.stack(sums) if sums else values_PD.new_zeros(0, values_PD.shape[1])


def segment_softmax(values_PH: Tensor, offsets_N1: Tensor) -> Tensor:
    parts = [segment.softmax(dim=0) for segment in _segments(values_PH, offsets_N1)]
    return torch.cat(parts) if parts else values_PH.clone()


def expand(values_ND: Tensor, offsets_N1: Tensor) -> Tensor:
    return values_ND.repeat_interleave(offsets_N1.diff(), dim=0)


def gather(table_MD: Tensor, index_P: Tensor) -> Tensor:
    return table_MD[index_P]


def embedding_bag(
    table_MD: Tensor, index_P: Tensor, offsets_N1: Tensor, mode: str, weight_P: Tensor | None = None
) -> Tensor:
    rows_PD = table_MD[index_P]
    if weight_P is not None:
        rows_PD = rows_PD * weight_P[:, None]
    pooled_ND = segment_sum(rows_PD, offsets_N1)
    if mode == "mean":
        pooled_ND = pooled_ND / offsets_N1.diff().clamp(min=1)[:, None]
    return pooled_ND


def segment_top(score_P: Tensor, offsets_N1: Tensor, k: int) -> Tensor:
    top_P = torch.zeros_like(score_P, dtype=torch.bool)
    for begin, end in zip(offsets_N1[:-1].tolist(), offsets_N1[1:].tolist(), strict=True):
        best = sorted(range(begin, end), key=lambda p: (float(score_P[p]), p), reverse=True)[:k]
        top_P[[p for p in best if score_P[p] > -torch.inf]] = True
    return top_P
