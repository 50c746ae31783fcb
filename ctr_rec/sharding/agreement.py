"""A step that may fail on one rank, made by all of them together: it succeeds on all, or all raise the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from ctr_rec.errors import CtrRecError
from ctr_rec.sharding.group import Group

T = TypeVar("T")


def on_each(group: Group, action: Callable[[], T]) -> T:
    """Every rank acts and keeps its own result. What one raises is raised on all: none waits for one that is gone.

    Raises CtrRecError or OSError; whatever else happens is our own mistake, and ends the rank where it happens.
    """
    result: T | None = None
    failure: Exception | None = None
    try:
        result = action()
    except (CtrRecError, OSError) as error:
        failure = error
    failures = [f for f in group.all_gather_object(failure) if f is not None]
    if failures:
        raise failures[0]
    return cast("T", result)


def on_main(group: Group, action: Callable[[], T]) -> T:
    """Rank 0 acts, and its result comes back on all ranks; raises as `on_each`."""
    return group.broadcast_object(on_each(group, action if group.is_main else lambda: None))
