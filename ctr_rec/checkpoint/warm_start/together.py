"""A step that may fail on one rank, made by all of them together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ctr_rec.errors import CtrRecError
from ctr_rec.sharding.group import Group

T = TypeVar("T")


def on_all(group: Group, action: Callable[[], T]) -> T:
    """Every rank acts; what one raises is raised on all, so that none waits for a rank that is gone."""
    result: T | None = None
    failure: Exception | None = None
    try:
        result = action()
    except (CtrRecError, OSError) as error:
        failure = error
    failures = [f for f in group.all_gather_object(failure) if f is not None]
    if failures:
        raise failures[0]
    return result  # pyright: ignore[reportReturnType]
