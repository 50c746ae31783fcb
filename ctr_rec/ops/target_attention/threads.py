"""Blocks over threads: each thread walks blocks of its own with single-threaded tensor operations.

Why not let every operation use all threads: a block is some hundred microseconds of work in forty operations, and each
would end in a barrier. Walking blocks apart has one; on a busy machine barriers were seen to cost ten times the work.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from threading import Barrier
from typing import TypeVar

import torch

from ctr_rec.ops.target_attention.plan import Block

Result = TypeVar("Result")


def walk_in_parts(blocks: list[Block], work: Callable[[list[Block]], Result]) -> list[Result]:
    """Call `work` on consecutive runs of blocks, one for each thread; results in the order of the blocks.

    The cut depends on the blocks and the number of threads only, so sums over parts are repeatable.
    """
    parts = cut_parts(blocks, torch.get_num_threads())
    if len(parts) <= 1:
        return [work(blocks)]
    # Grad mode and inference mode belong to a thread; the pool's threads know nothing of the caller's.
    inference = torch.is_inference_mode_enabled()

    def run(part: list[Block]) -> Result:
        with torch.inference_mode(inference), torch.no_grad():
            return work(part)

    return list(_pool(len(parts), os.getpid()).map(run, parts))


def cut_parts(blocks: list[Block], num_parts: int) -> list[list[Block]]:
    """Cut into at most `num_parts` consecutive runs of about equal numbers of pairs, none empty."""
    if not blocks:
        return []
    start, end = blocks[0].start, blocks[-1].end
    parts: list[list[Block]] = [[] for _ in range(num_parts)]
    for block in blocks:
        middle = (block.start + block.end) // 2 - start
        parts[min(middle * num_parts // (end - start), num_parts - 1)].append(block)
    return [part for part in parts if part]


@lru_cache(maxsize=4)
def _pool(num_threads: int, process: int) -> ThreadPoolExecutor:
    """`process` is the caller's id: the threads of a pool do not follow a fork."""
    del process
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="target_attention", initializer=_single_threaded)
    # Every thread starts now: its setting is its own, but also becomes the default of threads to come, which the last
    # line puts back. The barrier keeps a quick thread from taking two starts and leaving another unborn.
    barrier = Barrier(num_threads)
    for started in [pool.submit(barrier.wait) for _ in range(num_threads)]:
        started.result()
    torch.set_num_threads(before)
    return pool


def _single_threaded() -> None:
    # The first question makes torch set up the thread with the default, which would undo the setting later.
    torch.get_num_threads()
    torch.set_num_threads(1)
