"""Target attention over all pairs at once with plain jagged operations: any device, any dtype. Legend: the package."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from ctr_rec.ops import jagged
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
    event_PD = jagged.gather(event_TD, position_P)
    x = (event_PD * jagged.expand(target_ND, offsets_N1)) @ mlp.w_product_DH
    x = x + jagged.gather(event_TD @ mlp.w_event_DH, position_P)
    x = x + jagged.expand(target_ND @ mlp.w_target_DH + mlp.b_H, offsets_N1)
    for code in pair_codes:
        x = x + jagged.gather(code.bias_CH, code.code_P)
    x = act(x)
    for w, b in mlp.hidden:
        x = act(x @ w + b)
    score_P1 = x @ mlp.w_out_K[:, None] + mlp.b_out
    if normalize == "softmax":
        score_P1 = jagged.segment_softmax(score_P1, offsets_N1)
    return jagged.segment_sum(score_P1 * event_PD, offsets_N1)
