"""States of users that were asked about last, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict

from ctr_rec.errors import ConfigError
from ctr_rec.models.state import HistoryState


class StateCache:
    """By user number; what was used longest ago goes first. Not for several threads at once.

    Args:
        limit: bytes of all states together. A larger state is not kept at all.
    """

    def __init__(self, limit: int) -> None:
        if limit < 0:
            raise ConfigError(f"cache_bytes: expected 0 (keep nothing) or more, got {limit}")
        self.limit, self.num_bytes, self.hits, self.misses = limit, 0, 0, 0
        self._states: OrderedDict[int, tuple[HistoryState, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._states)

    def __contains__(self, user: int) -> bool:
        return user in self._states

    def get(self, user: int) -> HistoryState | None:
        """The user's state, now the most recently used."""
        found = self._states.get(user)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._states.move_to_end(user)
        return found[0]

    def put(self, user: int, state: HistoryState) -> None:
        """Keeps a state in memory of its own, in place of the user's former one."""
        self.forget(user)
        size = state.num_bytes
        if size > self.limit:
            return
        while self.num_bytes + size > self.limit:
            self.num_bytes -= self._states.popitem(last=False)[1][1]
        self._states[user] = state.clone(), size
        self.num_bytes += size

    def forget(self, user: int) -> None:
        """Drops a user's state, if there is one."""
        found = self._states.pop(user, None)
        if found is not None:
            self.num_bytes -= found[1]
