"""Cross-attention of each impression's query tokens to jagged key sets, without padding to a longest: EST's LCA.

EST (arXiv 2602.10811): the tokens of an impression attend to its behaviours B = [B_u, B_c], out_i = softmax(Q_i K^T /
sqrt(d)) V. Two sets of keys, one softmax. B_u is one per user or request, so its impressions name the same segment:

    set 1       k k k | k k          offsets 0 3 5      segment_N = [0, 0, 1]: x and y share the first three keys
    set 2       k | | k k            offsets 0 1 1 3    segment_N = None: one segment for each impression, y has none
    x sees 3 + 1 keys, y sees 3, z sees 2 + 2

`cross_attention` is the entry. `partial` and `merge` are its two halves: a scorer computes the part of one set once.
`choose.py` says which backend computes: `bucketed.py`, `fbgemm.py`, or `reference.py`, the plain truth.
"""

from ctr_rec.ops.cross_attention.attention import Part, cross_attention, merge, partial
from ctr_rec.ops.cross_attention.choose import Backend
from ctr_rec.ops.cross_attention.keys import KeySet

__all__ = ["Backend", "KeySet", "Part", "cross_attention", "merge", "partial"]
