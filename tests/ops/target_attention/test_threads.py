"""Blocks over threads: an even cut, the caller's modes, its thread count left alone, its errors raised."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from ctr_rec.ops.target_attention.plan import Block, cut_blocks
from ctr_rec.ops.target_attention.threads import cut_parts, walk_in_parts

BLOCKS = cut_blocks(list(range(0, 101, 2)), 10)


@pytest.fixture
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("num_parts", [1, 2, 3, 7, 50])
def test_parts_keep_the_order_and_are_about_equal(num_parts: int) -> None:
    parts = cut_parts(BLOCKS, num_parts)
    assert [block for part in parts for block in part] == BLOCKS
    assert len(parts) == min(num_parts, len(BLOCKS))
    sizes = [sum(block.end - block.start for block in part) for part in parts]
    assert max(sizes) - min(sizes) <= 20


def test_no_block_is_no_part_but_work_is_asked_once() -> None:
    assert cut_parts([], 4) == []
    assert walk_in_parts([], len) == [0]


def test_a_long_block_does_not_leave_an_empty_part() -> None:
    assert cut_parts([Block(0, 1, 0, 1000), Block(1, 2, 1000, 1001)], 4) == [
        [Block(0, 1, 0, 1000)],
        [Block(1, 2, 1000, 1001)],
    ]


@pytest.mark.usefixtures("_two_threads")
def test_threads_work_single_threaded_and_leave_the_others_alone() -> None:
    assert walk_in_parts(BLOCKS, lambda part: torch.get_num_threads()) == [1, 1]
    assert torch.get_num_threads() == 2
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [2]


@pytest.mark.usefixtures("_two_threads")
def test_no_graph_is_recorded_and_inference_mode_is_followed() -> None:
    assert walk_in_parts(BLOCKS, lambda part: torch.is_grad_enabled()) == [False, False]
    for inference in (False, True):
        with torch.inference_mode(inference):
            assert walk_in_parts(BLOCKS, lambda part: torch.is_inference_mode_enabled()) == [inference] * 2


@pytest.mark.usefixtures("_two_threads")
def test_an_error_of_a_part_reaches_the_caller() -> None:
    def work(part: list[Block]) -> None:
        if part[0].start > 0:
            raise ValueError("second part")

    with pytest.raises(ValueError, match="second part"):
        walk_in_parts(BLOCKS, work)
    assert walk_in_parts(BLOCKS, len) == [5, 5]
