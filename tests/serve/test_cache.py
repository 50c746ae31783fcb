from __future__ import annotations

import pytest
import torch

from ctr_rec.errors import ConfigError
from ctr_rec.models.state import ChannelState, HistoryState
from ctr_rec.serve.cache import StateCache


def _state(events: int) -> HistoryState:
    """24 + 24 * events bytes."""
    clock = torch.arange(events)
    keys = torch.zeros(events, 1, 1)
    offsets, dropped = torch.tensor([0, events]), torch.tensor([0])
    return HistoryState(offsets, dropped, clock, clock, {"a": ChannelState(None, (keys,), (keys,))})


def test_what_was_used_longest_ago_goes_first() -> None:
    cache = StateCache(limit=3 * 48)
    for user in (1, 2, 3):
        cache.put(user, _state(1))
    assert cache.num_bytes == 3 * 48
    assert cache.get(1) is not None
    cache.put(4, _state(1))
    assert [user in cache for user in (1, 2, 3, 4)] == [True, False, True, True]
    cache.put(5, _state(3))
    assert [user in cache for user in (1, 3, 4, 5)] == [False, False, True, True]
    assert (len(cache), cache.num_bytes) == (2, 48 + 96)


def test_a_new_state_replaces_the_old_one_and_forgetting_frees_its_bytes() -> None:
    cache = StateCache(limit=1000)
    cache.put(1, _state(1))
    cache.put(1, _state(5))
    found = cache.get(1)
    assert found is not None
    assert found.num_events == 5
    assert cache.num_bytes == 24 + 5 * 24
    cache.forget(1)
    cache.forget(1)
    assert (len(cache), cache.num_bytes) == (0, 0)
    assert cache.get(1) is None
    assert (cache.hits, cache.misses) == (1, 1)


def test_a_state_larger_than_the_cache_is_not_kept_and_pushes_nothing_out() -> None:
    cache = StateCache(limit=100)
    cache.put(1, _state(1))
    cache.put(2, _state(50))
    assert 1 in cache
    assert 2 not in cache
    cache.put(1, _state(50))
    assert 1 not in cache, "an old state must not stay when the new one does not fit"


def test_states_lie_in_memory_of_their_own() -> None:
    cache, whole = StateCache(limit=1000), _state(7)
    cache.put(1, whole.user(0, newest=2))
    found = cache.get(1)
    assert found is not None
    assert found.time.untyped_storage().nbytes() == 2 * 8


def test_a_negative_bound_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"cache_bytes: expected 0 .* or more, got -1"):
        StateCache(limit=-1)
