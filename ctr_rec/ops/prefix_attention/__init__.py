"""Attention of queries over contiguous visible ranges of packed keys: HSTU's pointwise SiLU, or softmax as in GRAB.

Worked example: two users with 3 and 2 history tokens, one candidate each, the second before the user's last event.

    keys            a0 a1 a2 | b0 b1          T = 5
    history query   a0 a1 a2 | b0 b1          lo = 0 0 0 3 3     hi = 1 2 3 4 5
    candidate       x  y                      lo = 0 3           hi = 3 4          (plus each its own key)

`prefix_attention` is the entry; `Pairs` holds, once per batch, what all layers and both passes share. `choose.py` says
which backend computes: `blocked.py`, `flex.py`, `fbgemm.py`, or `reference.py`, the plain truth.
"""

from ctr_rec.ops.prefix_attention.attention import prefix_attention
from ctr_rec.ops.prefix_attention.bias import QueryBias, RelativeBias, hstu_time_edges, time_bucket
from ctr_rec.ops.prefix_attention.choose import Backend
from ctr_rec.ops.prefix_attention.pairs import Pairs
from ctr_rec.ops.prefix_attention.plan import BlockLimits, BlockPlan, plan_blocks
from ctr_rec.ops.prefix_attention.weights import BlockWeights, softmax_weights

__all__ = [
    "Backend",
    "BlockLimits",
    "BlockPlan",
    "BlockWeights",
    "Pairs",
    "QueryBias",
    "RelativeBias",
    "hstu_time_edges",
    "plan_blocks",
    "prefix_attention",
    "softmax_weights",
    "time_bucket",
]
