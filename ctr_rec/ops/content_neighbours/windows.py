"""The K nearest events of each event among those of a window of the packed stream.

For a pass that all impressions of a user share, in which an event may read nothing that comes after it: `neighbours`
takes a whole sequence, and what lies in it behind an event would show.

Legend: M content rows, C width of content, T events, K neighbours; B blocks of events, R copies of events, P pairs.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ctr_rec.errors import ConfigError
from ctr_rec.ops.content_neighbours.find import Neighbours, check_inputs
from ctr_rec.ops.content_neighbours.reference import reference_neighbours
from ctr_rec.ops.jagged import segment_of_row, stretches
from ctr_rec.ops.retrieval import top_k_by_similarity

_BLOCK = 64
"""Events whose windows are compared by one product; about the length of a window."""


@torch.no_grad()
def window_neighbours(
    content_MC: Tensor,
    item_T: Tensor,
    low_T: Tensor,
    high_T: Tensor,
    k: int,
    backend: Literal["auto", "blocked", "reference"] = "auto",
) -> Neighbours:
    """The K events of largest cosine of content among the events low[t] : high[t], oldest first.

    content_MC: float [M, C]. item_T: int [T], row of each event. low_T, high_T: int64 [T], both never falling, as those
    of a stream's events are. An event is its own neighbour where its window holds it. Contents, ties and exactness as
    in `neighbours`.

    A block of events is compared with the events from its first window's begin to its last one's end, copied: time and
    memory grow with events times window, not with the square of a user's events.

    Raises ValueError for shapes, rows or windows that do not belong together, ConfigError for k below 1 or a backend
    that does not exist.
    """
    check_inputs("window_neighbours", content_MC, item_T, k)
    _check_windows(low_T, high_T, len(item_T))
    if backend not in ("auto", "blocked", "reference"):
        raise ConfigError(f"window_neighbours: backend must be auto, blocked or reference, got: {backend!r}")
    if backend == "reference":
        return Neighbours(*reference_neighbours(content_MC, item_T, low_T, high_T, k))
    own_T = torch.arange(len(item_T), device=item_T.device)
    index_TK = own_T[:, None].repeat(1, k)
    weight_TK = torch.zeros(len(item_T), k, device=item_T.device)
    if len(item_T) == 0:
        return Neighbours(index_TK, weight_TK)
    first_B = own_T[::_BLOCK]
    begin_B = low_T[first_B]
    event_R, offsets_B1 = stretches(begin_B, high_T[(first_B + _BLOCK - 1).clamp(max=len(item_T) - 1)] - begin_B)
    shift_T = (offsets_B1[:-1] - begin_B)[own_T // _BLOCK]
    values_P, offsets_T1 = stretches(low_T + shift_T, high_T - low_T)
    found = top_k_by_similarity(content_MC[item_T], content_MC, item_T[event_R], values_P, offsets_T1, k)
    row_R = segment_of_row(found.offsets)
    place_R = torch.arange(len(row_R), device=row_R.device) - found.offsets[row_R]
    index_TK[row_R, place_R] = event_R[found.values]
    weight_TK[row_R, place_R] = found.score
    return Neighbours(index_TK, weight_TK)


def _check_windows(low_T: Tensor, high_T: Tensor, num_events: int) -> None:
    """On the host alone, where looking costs no wait."""
    if low_T.shape != (num_events,) or high_T.shape != (num_events,):
        raise ValueError(
            f"window_neighbours: low_T and high_T must have one entry for each of {num_events} events, got: "
            f"{tuple(low_T.shape)} and {tuple(high_T.shape)}"
        )
    if low_T.device.type != "cpu" or num_events == 0:
        return
    falls = bool((low_T.diff() < 0).any() or (high_T.diff() < 0).any())
    if falls or bool((low_T > high_T).any()) or int(low_T[0]) < 0 or int(high_T[-1]) > num_events:
        raise ValueError(
            f"window_neighbours: windows must lie in 0 : {num_events}, begin before they end and never fall; give the "
            "events in the stream's order"
        )
