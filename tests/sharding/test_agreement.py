"""What one rank cannot do, all ranks say, and none waits."""

from __future__ import annotations

import errno

import pytest

from ctr_rec.errors import CheckpointError, ConfigError
from ctr_rec.sharding.agreement import on_each, on_main
from ctr_rec.sharding.group import Group, open_group
from tests.ranks import run_ranks


def _act(group: Group) -> tuple[int, str, str]:
    def refuse() -> int:
        if group.index == 1:
            raise CheckpointError("rank 1 says no")
        return 0

    def fail() -> int:
        if group.index == 0:
            raise OSError(5, "Input/output error")
        return 0

    with pytest.raises(CheckpointError) as refused:
        on_each(group, refuse)
    with pytest.raises(OSError, match="Input/output error") as failed:
        on_each(group, fail)
    return on_each(group, lambda: group.index), str(refused.value), str(failed.value)


def test_what_one_rank_raises_all_raise() -> None:
    words = ("rank 1 says no", "[Errno 5] Input/output error")
    assert run_ranks(_act, 2) == [(0, *words), (1, *words)]


def test_an_interrupt_is_nobodys_failure() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with open_group("cpu") as group, pytest.raises(KeyboardInterrupt):
        on_each(group, interrupt)


def _told_by_main(group: Group) -> int:
    return on_main(group, lambda: 10 + group.index)


def test_the_main_ranks_result_comes_back_on_all() -> None:
    assert run_ranks(_told_by_main, 2) == [10, 10]


def _refused_everywhere(group: Group) -> str:
    def refuse() -> int:
        raise ConfigError(f"rank {group.index} says no")

    with pytest.raises(ConfigError) as caught:
        on_main(group, refuse)
    return str(caught.value)


def test_what_the_main_rank_refuses_is_refused_on_all() -> None:
    assert run_ranks(_refused_everywhere, 2) == ["rank 0 says no"] * 2


def _full_everywhere(group: Group) -> tuple[int | None, str]:
    def write() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "runs/a/config.json")

    with pytest.raises(OSError, match="No space left") as caught:
        on_main(group, write)
    return caught.value.errno, caught.value.filename


def test_a_disk_that_is_full_for_the_main_rank_ends_all() -> None:
    assert run_ranks(_full_everywhere, 2) == [(errno.ENOSPC, "runs/a/config.json")] * 2
