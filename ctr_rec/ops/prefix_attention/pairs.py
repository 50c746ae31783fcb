"""What every backend starts from: visible ranges, times and table sizes of a batch; each adds its own plan, once.

Legend: Q queries, T keys, G time edges.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor

from ctr_rec.ops.prefix_attention.bias import Bias
from ctr_rec.ops.prefix_attention.plan import BlockPlan, check_ranges, check_times, plan_blocks, relative_times

_Made = TypeVar("_Made")


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """The pairs of query and key that a batch attends over. Made once per batch and shared by all layers.

    lo_Q, hi_Q: int64 [Q], visible keys lo:hi of each query. num_positions, num_buckets: rows of the bias tables, 0 for
    none. Times are int64 seconds, needed with num_buckets; time_edges_G as in `RelativeBias`.
    """

    lo_Q: Tensor
    hi_Q: Tensor
    num_keys: int
    num_positions: int = 0
    num_buckets: int = 0
    query_time_Q: Tensor | None = None
    key_time_T: Tensor | None = None
    time_edges_G: Tensor | None = None
    _made: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def once(self, key: Hashable, make: Callable[[], _Made]) -> _Made:
        """What `make` returned when it was first asked for under this key."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def blocks(self, joint: bool) -> BlockPlan:
        """The blocked backend's plan; see plan_blocks."""
        return self.once(
            ("blocks", joint),
            lambda: plan_blocks(
                self.lo_Q,
                self.hi_Q,
                self.num_keys,
                num_positions=self.num_positions,
                num_buckets=self.num_buckets,
                query_time_Q=self.query_time_Q,
                key_time_T=self.key_time_T,
                time_edges_G=self.time_edges_G,
                joint=joint,
            ),
        )

    def check(self) -> None:
        """Raises ValueError when a range is reversed or leaves the keys, or when times are missing or do not fit."""

        def checked() -> bool:
            check_ranges(self.lo_Q.detach().cpu().numpy(), self.hi_Q.detach().cpu().numpy(), self.num_keys)
            if self.num_buckets:
                check_times(self.query_time_Q, self.key_time_T, len(self.lo_Q), self.num_keys)
            return True

        self.once("check", checked)

    def times(self) -> tuple[Tensor, Tensor]:
        """Times of queries and keys from their common start, in int32 where their span allows it."""
        return self.once(
            "times",
            lambda: relative_times(*check_times(self.query_time_Q, self.key_time_T, len(self.lo_Q), self.num_keys)),
        )


def pairs_of(lo_Q: Tensor, hi_Q: Tensor, num_keys: int, bias: Bias | None) -> Pairs:
    """The pairs of one call, with the sizes and times of its bias."""
    if bias is None:
        return Pairs(lo_Q=lo_Q, hi_Q=hi_Q, num_keys=num_keys)
    return Pairs(
        lo_Q=lo_Q,
        hi_Q=hi_Q,
        num_keys=num_keys,
        num_positions=bias.num_positions,
        num_buckets=bias.num_buckets,
        query_time_Q=bias.query_time_Q,
        key_time_T=bias.key_time_T,
        time_edges_G=bias.time_edges_G,
    )
