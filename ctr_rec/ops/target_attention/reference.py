"""The definition, one impression at a time, in any dtype. Legend: see the package."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ctr_rec.ops.target_attention.weights import AttentionMLP, PairCode


def target_attention(
    target_ND: Tensor,
    event_TD: Tensor,
    position_P: Tensor,
    offsets_N1: Tensor,
    mlp: AttentionMLP,
    pair_codes: Sequence[PairCode],
    activation: str,
    normalize: str,
) -> Tensor:
    act = functional.relu if activation == "relu" else functional.silu
    pooled = []
    for n, (start, end) in enumerate(zip(offsets_N1[:-1].tolist(), offsets_N1[1:].tolist(), strict=True)):
        target_D = target_ND[n]
        event_LD = event_TD[position_P[start:end]]
        x = target_D @ mlp.w_target_DH + event_LD @ mlp.w_event_DH + (target_D * event_LD) @ mlp.w_product_DH + mlp.b_H
        for code in pair_codes:
            x = x + code.bias_CH[code.code_P[start:end]]
        x = act(x)
        for w, b in mlp.hidden:
            x = act(x @ w + b)
        score_L = x @ mlp.w_out_K + mlp.b_out
        if normalize == "softmax":
            score_L = score_L.softmax(dim=0)
        pooled.append(score_L @ event_LD)
    return torch.stack(pooled) if pooled else target_ND.new_zeros(0, event_TD.shape[1])
