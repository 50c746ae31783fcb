"""The scorer: keeps what users' histories came to, and scores candidates against it whenever they arrive.

    with open_group() as group:
        scorer = Scorer.from_run(Path("runs/grab"), group)
        scorer.encode([7, 8])                                   # while candidates are still being found
        logits = scorer.score(7, items, request_time, context)  # [N]

A request at time t reads states of events that were known before t, whatever else the log or the state holds. A state
is never extended in place: deep layers of tied events would have to be computed again. After new events of a user say
`forget`, and the next request or `encode` computes the state anew from the newest `reach` events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctr_rec.errors import ConfigError
from ctr_rec.evaluate.opened import open_run
from ctr_rec.models.ranker import Ranker
from ctr_rec.models.state import HistoryState
from ctr_rec.serve.cache import StateCache
from ctr_rec.serve.candidates import against, reaches, score_candidates, split_parts
from ctr_rec.serve.log_users import LogUsers
from ctr_rec.sharding.group import Group

MIB = 1 << 20
_TOKENS = 16_384  # events encoded in one pass


class Scorer:
    """Scores candidates of single users on one process.

    Args:
        ranker: with a tower that can run split; its tables may be sharded over one rank.
        users: where histories and items come from.
        reach: how many events back a score depends on; see `TowerConfig.reach`.
        micro_batch: candidates in one pass. cache_bytes: of all states that are kept.
        spare: events kept beyond those that a request at the user's newest event reads, for requests of older times;
            for a still older one the state is computed as of its time and not kept.

    Raises:
        ConfigError: the tower has no state of a history, or a number is out of its range.
    """

    def __init__(
        self,
        ranker: Ranker,
        users: LogUsers,
        reach: int,
        device: torch.device,
        *,
        micro_batch: int = 1024,
        cache_bytes: int = 256 * MIB,
        spare: int = 64,
    ) -> None:
        self.tower, self.head = split_parts(ranker)
        if micro_batch < 1 or spare < 0:
            raise ConfigError(f"scorer: expected micro_batch >= 1 and spare >= 0, got {micro_batch} and {spare}")
        self.front = ranker.front
        self.users, self.device, self.micro_batch = users, device, micro_batch
        self.cache = StateCache(cache_bytes)
        self._keep = self.tower.looks_back + spare
        # So many events are read that the oldest one kept has itself seen all that it may see.
        self._read = self._keep + reach - self.tower.looks_back
        ranker.eval()

    @classmethod
    def from_run(
        cls, run_dir: Path, group: Group, checkpoint: str = "best", log: Path | None = None, **settings: Any
    ) -> Scorer:
        """The scorer of a run. group: an open one of a single process. settings: as of the class.

        Raises:
            ConfigError: no run folder, a tower without a state, or several ranks. CheckpointError: no such checkpoint,
            or the log is another. DataError: the log cannot be read.
        """
        if group.size != 1:
            raise ConfigError(f"a scorer runs on one process, got {group.size} ranks; start it without torchrun")
        built, _ = open_run(run_dir, checkpoint, log, group)
        users = LogUsers(built.run.data, built.spec)
        return cls(built.ranker, users, built.run.tower.reach, group.device, **settings)

    def encode(self, users: Sequence[int]) -> None:
        """Makes the states of users that have none in the cache, many users in one pass."""
        missing = [user for user in dict.fromkeys(users) if user not in self.cache]
        for together in self._packs(missing):
            state = self._encoded(together, None)
            for row, user in enumerate(together):
                self.cache.put(user, state.user(row, self._keep))

    def forget(self, user: int) -> None:
        """Drops a user's state, since there are new events or the old ones were changed."""
        self.cache.forget(user)

    @torch.no_grad()
    def score(self, user: int, items: Sequence[int], request_time: int, context: Mapping[str, Any]) -> Tensor:
        """Logits [N] of items for a user at a time. Arguments as of `LogUsers.candidates`."""
        batch = self.users.candidates(user, items, request_time, context).to(self.device)
        embedded = self.front(batch)
        state = self._state(user)
        if not reaches(state, against(state, batch), self.tower.looks_back):
            state = self._encoded([user], request_time).user(0, self._keep)
        return score_candidates(self.tower, self.head, state, embedded, batch, self.micro_batch)

    def _state(self, user: int) -> HistoryState:
        found = self.cache.get(user)
        if found is None:
            found = self._encoded([user], None).user(0, self._keep)
            self.cache.put(user, found)
        return found

    @torch.no_grad()
    def _encoded(self, users: Sequence[int], before: int | None) -> HistoryState:
        batch = self.users.histories(users, self._read, before).to(self.device)
        return self.tower.encode_history(self.front(batch), batch)

    def _packs(self, users: Sequence[int]) -> Iterator[list[int]]:
        pack, events = [], 0
        for user in users:
            count = min(self.users.num_events(user), self._read)
            if pack and events + count > _TOKENS:
                yield pack
                pack, events = [], 0
            pack.append(user)
            events += count
        if pack:
            yield pack
