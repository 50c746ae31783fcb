"""Neighbours of each event by content, and the weighted sum over them: EST's content sparse attention, without weights.

EST (arXiv 2602.10811): G = M M^T over the normalised content vectors of one sequence, (Omega, E) = row-wise top K of G,
O_i = sum_k E_ik x_{Omega_ik}, no softmax. Omega and E do not depend on the layer: `neighbours` once for a sequence,
`neighbour_sum` in each layer.

    events      a b c | d e          offsets 0 3 5, K = 2
    index       a:[a c] b:[b a] c:[c a]   d:[d e] e:[e d]       positions in the packed events; itself is the nearest

`window_neighbours`: the same where each event has a window of its own, for passes in which nothing looks ahead.
"""

from ctr_rec.ops.content_neighbours.find import Neighbours, neighbours
from ctr_rec.ops.content_neighbours.sums import neighbour_sum
from ctr_rec.ops.content_neighbours.windows import window_neighbours

__all__ = ["Neighbours", "neighbour_sum", "neighbours", "window_neighbours"]
