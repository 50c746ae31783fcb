"""Small functions on jagged tensors: sum, softmax and repeat by segment, gather by row, pooled look-up.

A jagged tensor is `values` and `offsets`: segment n owns the rows offsets[n] : offsets[n + 1].

    rows      [a b c]  []  [d]
    values    a  b  c  d
    offsets   0  3  3  4

Every function with a gradient has `backend="reference"` (the definition, any dtype) and `backend="bag"` (the fast
path, default).
All gradients are deterministic: sums run in the order of the rows, whatever the number of threads.

Legend: P rows of the jagged values, N segments, N1 = N + 1, M table rows, D width, H width of scores.
"""

from typing import Literal

import torch
from torch import Tensor

from ctr_rec.ops.jagged import bag, reference

Backend = Literal["reference", "bag"]
Mode = Literal["sum", "mean"]
_INTEGERS = (torch.int32, torch.int64)


def segment_sum(values_PD: Tensor, offsets_N1: Tensor, *, backend: Backend | None = None) -> Tensor:
    """Sum the rows of each segment: float [P, D] -> float [N, D]; an empty segment gives zeros.

    Raises:
        ValueError: offsets that are not integers from 0 to P, or values that are not two-dimensional.
    """
    _check_values("values_PD", values_PD)
    check_offsets(offsets_N1, len(values_PD))
    if backend == "reference":
        return reference.segment_sum(values_PD, offsets_N1)
    return bag.SegmentSum.apply(values_PD, offsets_N1)


def segment_softmax(values_PH: Tensor, offsets_N1: Tensor, *, backend: Backend | None = None) -> Tensor:
    """Softmax over the rows of each segment, column by column: float [P, H] -> float [P, H].

    Raises:
        ValueError: offsets that are not integers from 0 to P, or values that are not two-dimensional.
    """
    _check_values("values_PH", values_PH)
    check_offsets(offsets_N1, len(values_PH))
    if backend == "reference":
        return reference.segment_softmax(values_PH, offsets_N1)
    return bag.SegmentSoftmax.apply(values_PH, offsets_N1)


def expand(values_ND: Tensor, offsets_N1: Tensor, *, backend: Backend | None = None) -> Tensor:
    """Repeat row n once for each row of segment n: float [N, D] -> float [P, D].

    Raises:
        ValueError: offsets that are not integers, start above 0, or do not match the N rows given.
    """
    _check_values("values_ND", values_ND)
    check_offsets(offsets_N1, None)
    if len(offsets_N1) != len(values_ND) + 1:
        raise ValueError(
            f"expand: expected {len(values_ND) + 1} offsets for {len(values_ND)} rows, got {len(offsets_N1)}; "
            "pass one offset more than there are rows"
        )
    if backend == "reference":
        return reference.expand(values_ND, offsets_N1)
    return bag.Expand.apply(values_ND, offsets_N1)


def gather(table_MD: Tensor, index_P: Tensor, *, backend: Backend | None = None) -> Tensor:
    """Take rows of a table: float [M, D], int [P] -> float [P, D]. The gradient sums by row, in order of P.

    Raises:
        ValueError: an index that is not a vector of integers inside [0, M).
    """
    _check_values("table_MD", table_MD)
    check_index("index_P", index_P, len(table_MD))
    if backend == "reference":
        return reference.gather(table_MD, index_P)
    return bag.Gather.apply(table_MD, index_P)


def embedding_bag(
    table_MD: Tensor,
    index_P: Tensor,
    offsets_N1: Tensor,
    mode: Mode = "sum",
    *,
    weight_P: Tensor | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """Pool table rows by segment without building them: float [M, D], int [P], int [N + 1] -> float [N, D].

    `weight_P` multiplies each row before the sum and receives a gradient; it goes with mode "sum" only.
    An empty segment gives zeros in both modes.

    Raises:
        ValueError: an index outside [0, M), bad offsets, an unknown mode, or weights with mode "mean".
    """
    _check_values("table_MD", table_MD)
    check_index("index_P", index_P, len(table_MD))
    check_offsets(offsets_N1, len(index_P))
    if mode not in ("sum", "mean"):
        raise ValueError(f"embedding_bag: expected mode 'sum' or 'mean', got {mode!r}")
    if weight_P is not None and mode == "mean":
        raise ValueError("embedding_bag: expected no weight_P with mode 'mean'; use mode 'sum' and divide the weights")
    if weight_P is not None and weight_P.shape != index_P.shape:
        raise ValueError(
            f"embedding_bag: expected one weight per index, {tuple(index_P.shape)}, got {tuple(weight_P.shape)}"
        )
    if backend == "reference":
        return reference.embedding_bag(table_MD, index_P, offsets_N1, mode, weight_P)
    if mode == "mean":
        weight_P = _mean_weights(offsets_N1, table_MD)
    return bag.WeightedBag.apply(table_MD, weight_P, index_P, offsets_N1)


def segment_top(score_P: Tensor, offsets_N1: Tensor, k: int, *, backend: Backend | None = None) -> Tensor:
    """Which rows are among the k largest of their segment, bool [P]; of equals the later ones, and never -inf.

    score_P: float [P] without NaN, no gradient. Raises ValueError for bad offsets, or scores that are no vector.
    """
    if score_P.dim() != 1 or not score_P.dtype.is_floating_point:
        raise ValueError(
            f"segment_top: expected a floating vector, got {score_P.dtype} of shape {tuple(score_P.shape)}"
        )
    check_offsets(offsets_N1, len(score_P))
    if backend == "reference":
        return reference.segment_top(score_P, offsets_N1, k)
    # Sorted by score, then by segment without changing that order: the last k places of each segment are its largest.
    order_P = score_P.argsort(stable=True)
    segment_P = bag.segment_index(offsets_N1)
    order_P = order_P[segment_P[order_P].argsort(stable=True)]
    place_P = torch.arange(len(score_P), device=score_P.device)
    top_P = torch.zeros_like(score_P, dtype=torch.bool)
    top_P[order_P] = place_P >= offsets_N1[1:][segment_P] - k
    return top_P & (score_P > -torch.inf)


def stretches(begin_N: Tensor, length_N: Tensor) -> tuple[Tensor, Tensor]:
    """Rows begin[n] : begin[n] + length[n], one stretch after another: int64 [P], and their offsets [N + 1].

    begin 4 0 4, length 2 1 0: rows 4 5 0, offsets 0 2 3 3
    """
    offsets_N1 = torch.cat([length_N.new_zeros(1), length_N.cumsum(0)])
    place_P = torch.arange(int(offsets_N1[-1]), device=begin_N.device)
    return place_P + (begin_N - offsets_N1[:-1]).repeat_interleave(length_N), offsets_N1


def segment_of_row(offsets_N1: Tensor) -> Tensor:
    """Which segment each row belongs to: int [N + 1] -> int64 [P]."""
    return bag.segment_index(offsets_N1)


def distinct(index_P: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Rows that an index into `num_rows` rows names, ascending, int64 [R], and where among them each entry stands [P].

    By marks, not by sorting: time and memory are those of num_rows, with no backend to choose.
    """
    check_index("index_P", index_P, num_rows)
    used_M = torch.zeros(num_rows, dtype=torch.bool, device=index_P.device)
    used_M[index_P] = True
    return used_M.nonzero().squeeze(1), (used_M.cumsum(0) - 1)[index_P]


def check_offsets(offsets_N1: Tensor, num_rows: int | None) -> None:
    """Refuse offsets that are not a rising vector of integers from 0 to `num_rows` (values: on CPU only).

    On an accelerator reading a value would stop the stream, so there only shape and type are looked at.
    """
    if offsets_N1.dim() != 1 or offsets_N1.dtype not in _INTEGERS or len(offsets_N1) == 0:
        raise ValueError(
            "offsets: expected a vector of int32 or int64 with one entry more than there are segments, got "
            f"{offsets_N1.dtype} of shape {tuple(offsets_N1.shape)}; for no segment at all pass [0]"
        )
    if offsets_N1.device.type != "cpu":
        return
    first, last = int(offsets_N1[0]), int(offsets_N1[-1])
    if first != 0 or (num_rows is not None and last != num_rows):
        raise ValueError(f"offsets: expected to run from 0 to {num_rows} rows, got {first} to {last}")
    if len(offsets_N1) > 1 and int(offsets_N1.diff().min()) < 0:
        at = int(offsets_N1.diff().argmin())
        raise ValueError(
            f"offsets: expected no fall, got {int(offsets_N1[at])} then {int(offsets_N1[at + 1])} at segment {at}"
        )


def check_index(name: str, index_P: Tensor, num_rows: int) -> None:
    """Refuse an index that is not a vector of integers inside [0, num_rows) (values: on CPU only)."""
    if index_P.dim() != 1 or index_P.dtype not in _INTEGERS:
        raise ValueError(
            f"{name}: expected a vector of int32 or int64, got {index_P.dtype} of shape {tuple(index_P.shape)}"
        )
    if index_P.device.type != "cpu" or len(index_P) == 0:
        return
    low, high = (int(bound) for bound in torch.aminmax(index_P))
    if low < 0 or high >= num_rows:
        raise ValueError(f"{name}: expected rows inside [0, {num_rows}), got {low if low < 0 else high}")


def _check_values(name: str, values: Tensor) -> None:
    if values.dim() != 2 or not values.dtype.is_floating_point:
        raise ValueError(
            f"{name}: expected a two-dimensional floating tensor, got {values.dtype} of shape {tuple(values.shape)}"
        )


def _mean_weights(offsets_N1: Tensor, like: Tensor) -> Tensor:
    lengths_N = offsets_N1.diff()
    return (1.0 / lengths_N.clamp(min=1).to(like.dtype)).repeat_interleave(lengths_N)
