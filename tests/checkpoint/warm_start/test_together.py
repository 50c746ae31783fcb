from __future__ import annotations

import pytest

from ctr_rec.checkpoint.warm_start.together import on_all
from ctr_rec.errors import CheckpointError
from ctr_rec.sharding.group import Group
from tests.ranks import run_ranks


def act(group: Group) -> tuple[int, str, str]:
    def refuse() -> int:
        if group.index == 1:
            raise CheckpointError("rank 1 says no")
        return 0

    def fail() -> int:
        if group.index == 0:
            raise OSError(5, "Input/output error")
        return 0

    with pytest.raises(CheckpointError) as refused:
        on_all(group, refuse)
    with pytest.raises(OSError, match="Input/output error") as failed:
        on_all(group, fail)
    return on_all(group, lambda: group.index), str(refused.value), str(failed.value)


def test_what_one_rank_raises_all_raise() -> None:
    words = ("rank 1 says no", "[Errno 5] Input/output error")
    assert run_ranks(act, 2) == [(0, *words), (1, *words)]
