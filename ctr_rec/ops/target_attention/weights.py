"""What the attention MLP of target attention consists of. Legend: see the package."""

from typing import NamedTuple

from torch import Tensor


class AttentionMLP(NamedTuple):
    """Weights of the scoring MLP, its first layer already split.

    A layer on [t, h, t - h, t * h] with blocks Wt, Wh, Wd, Wp is the same as w_target = Wt + Wd on the target (once
    for each impression), w_event = Wh - Wd on the event (once for each event) and w_product = Wp on each pair.
    """

    w_target_DH: Tensor
    w_event_DH: Tensor
    w_product_DH: Tensor
    b_H: Tensor
    hidden: tuple[tuple[Tensor, Tensor], ...]
    """Further layers as (weight [in, out], bias [out])."""
    w_out_K: Tensor
    b_out: Tensor
    """A scalar tensor."""


class PairCode(NamedTuple):
    """A bucket of each pair (age, order) and the row it adds to the first layer before the activation."""

    code_P: Tensor
    bias_CH: Tensor
