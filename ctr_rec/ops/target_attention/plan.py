"""How the pairs of a call are cut into blocks of whole impressions. Legend: see the package."""

from bisect import bisect_right
from typing import NamedTuple

import torch
from torch import Tensor


class Block(NamedTuple):
    """Impressions first : last and their pairs start : end."""

    first: int
    last: int
    start: int
    end: int


class Plan(NamedTuple):
    """Indices of a call in 32 bits (half the memory traffic of 64) and its blocks."""

    position_P: Tensor
    impression_P: Tensor
    offsets_N1: Tensor
    blocks: list[Block]

    @property
    def num_pairs(self) -> int:
        return len(self.position_P)

    @property
    def largest_block(self) -> int:
        return max((block.end - block.start for block in self.blocks), default=0)


def make_plan(position_P: Tensor, offsets_N1: Tensor, block_pairs: int) -> Plan:
    """Cut into blocks of at most `block_pairs` pairs; an impression longer than that is a block of its own."""
    impression_P = torch.repeat_interleave(offsets_N1.diff())
    blocks = cut_blocks(offsets_N1.tolist(), block_pairs)
    return Plan(position_P.int(), impression_P.int(), offsets_N1.int(), blocks)


def cut_blocks(offsets: list[int], block_pairs: int) -> list[Block]:
    """Greedy cut of n impressions given their n + 1 offsets; blocks without a pair are left out."""
    blocks = []
    first, num_impressions = 0, len(offsets) - 1
    while first < num_impressions:
        last = max(bisect_right(offsets, offsets[first] + block_pairs) - 1, first + 1)
        if offsets[last] > offsets[first]:
            blocks.append(Block(first, last, offsets[first], offsets[last]))
        first = last
    return blocks
