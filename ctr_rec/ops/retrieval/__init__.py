"""General search of a long history: which of its visible events an impression's candidate retrieves, K at most.

Soft search by similarity (`top_k_by_similarity`): cosine of content vectors, as MUSE (arXiv 2512.07216) and EST (arXiv
2602.10811) do it, or of ID embeddings, as SIM's soft search. Hard search by category (`most_recent_matching`): SIM.

    events      a b c d e f          T = 6
    histories   x: b c d             values 1 2 3 1 2 3 4, offsets 0 3 7: nearly the same range, computed together
                y: b c d e
    found       x: b d   y: c e      positions, oldest first: values 1 3 2 4, offsets 0 2 4

Exact: what an impression retrieves is a function of its own history and candidate, never of the batch.
"""

from ctr_rec.ops.retrieval.matching import Categories, most_recent_matching
from ctr_rec.ops.retrieval.similarity import top_k_by_similarity
from ctr_rec.ops.retrieval.views import Retrieved

__all__ = ["Categories", "Retrieved", "most_recent_matching", "top_k_by_similarity"]
