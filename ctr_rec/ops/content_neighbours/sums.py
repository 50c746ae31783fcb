"""The weighted sum over neighbours, forward and backward one pooled look-up each.

Legend: P events, D width, K neighbours.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ctr_rec.ops.content_neighbours.find import Neighbours
from ctr_rec.ops.content_neighbours.reference import reference_neighbour_sum
from ctr_rec.ops.jagged import bag


def neighbour_sum(
    x_PD: Tensor, neighbours: Neighbours, backend: Literal["auto", "pooled", "reference"] = "auto"
) -> Tensor:
    """out_i = sum_k weight_ik x[index_ik]: float [P, D] -> [P, D]. An event without neighbours gets zeros.

    The weights of an event sum up to K at most and are not normalised, as in the paper. The gradient reaches x and is
    summed in a fixed order.

    Raises ValueError where x has another number of events than the neighbours.
    """
    if x_PD.dim() != 2 or not x_PD.is_floating_point() or len(x_PD) != len(neighbours.index_PK):
        raise ValueError(
            f"neighbour_sum: x_PD must be floating with shape [{len(neighbours.index_PK)}, D], one row for each event, "
            f"got: {x_PD.dtype} of shape {tuple(x_PD.shape)}"
        )
    if backend == "reference":
        return reference_neighbour_sum(x_PD, neighbours.index_PK, neighbours.weight_PK)
    return _NeighbourSum.apply(x_PD, neighbours)


class _NeighbourSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_PD: Tensor, neighbours: Neighbours) -> Tensor:
        ctx.neighbours = neighbours
        num_events, k = neighbours.index_PK.shape
        offsets_P1 = torch.arange(0, num_events * k + 1, k, device=x_PD.device)
        weight = neighbours.weight_PK.flatten().to(x_PD.dtype)
        return bag.pooled(x_PD.contiguous(), neighbours.index_PK.flatten(), offsets_P1, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_PD: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        neighbours: Neighbours = ctx.neighbours
        order, offsets_P1 = neighbours.readers
        weight = neighbours.weight_PK.flatten()[order].to(grad_PD.dtype)
        reader = order // neighbours.index_PK.shape[1]
        return bag.pooled(grad_PD.contiguous(), reader, offsets_P1, weight), None
