"""Cutting pairs into blocks: every pair in one block, impressions whole, blocks within their size."""

from __future__ import annotations

import random

from ctr_rec.ops.target_attention.plan import Block, cut_blocks


def test_blocks_are_whole_impressions_within_the_size() -> None:
    assert cut_blocks([0, 3, 3, 5, 9, 10], 5) == [Block(0, 3, 0, 5), Block(3, 5, 5, 10)]


def test_a_long_impression_is_a_block_of_its_own() -> None:
    assert cut_blocks([0, 2, 22, 23], 5) == [Block(0, 1, 0, 2), Block(1, 2, 2, 22), Block(2, 3, 22, 23)]


def test_no_pair_gives_no_block() -> None:
    assert cut_blocks([0], 5) == []
    assert cut_blocks([0, 0, 0], 5) == []


def test_every_pair_is_in_exactly_one_block() -> None:
    draw = random.Random(3)
    for _ in range(50):
        offsets = [0]
        for _ in range(draw.randrange(12)):
            offsets.append(offsets[-1] + draw.choice([0, 0, 1, 2, 7, 30]))
        blocks = cut_blocks(offsets, 9)
        pairs = [pair for block in blocks for pair in range(block.start, block.end)]
        assert pairs == list(range(offsets[-1]))
        for block in blocks:
            assert offsets[block.first] == block.start
            assert offsets[block.last] == block.end
            assert block.end - block.start <= 9 or offsets[block.first + 1] == block.end
