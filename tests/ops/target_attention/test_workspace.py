"""The pool of scratch memory: what is given back is used again, and never by two at once."""

from __future__ import annotations

import pytest
import torch

from ctr_rec.ops.target_attention import workspace
from ctr_rec.ops.target_attention.workspace import Workspace


def test_given_memory_is_taken_again() -> None:
    pool = Workspace()
    lease = pool.take(100, 64, torch.float32)
    assert lease.tensor.shape == (100, 64)
    address = lease.tensor.data_ptr()
    pool.give(lease)
    assert pool.take(90, 32, torch.float64).tensor.data_ptr() == address
    assert pool.held_bytes() == 0


def test_open_leases_do_not_share_memory() -> None:
    pool = Workspace()
    pool.give(pool.take(100, 64, torch.float32))
    one, two = pool.take(100, 64, torch.float32), pool.take(100, 64, torch.float32)
    one.tensor.fill_(1.0)
    two.tensor.fill_(2.0)
    assert one.tensor.eq(1.0).all()


def test_a_small_request_does_not_hold_a_huge_buffer() -> None:
    pool = Workspace()
    pool.give(pool.take(10000, 64, torch.float32))
    held = pool.held_bytes()
    pool.take(10, 64, torch.float32)
    assert pool.held_bytes() == held


def test_growing_requests_replace_the_buffer() -> None:
    pool = Workspace()
    for rows in range(1000, 3000, 100):
        pool.give(pool.take(rows, 64, torch.float32))
    assert pool.held_bytes() <= 2 * 3000 * 64 * 4


def test_memory_beyond_the_bound_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "MAX_HELD_BYTES", 1 << 16)
    pool = Workspace()
    pool.give(pool.take(1 << 15, 4, torch.float32))
    assert pool.held_bytes() == 0


def test_memory_first_taken_in_inference_mode_can_be_written_later() -> None:
    pool = Workspace()
    with torch.inference_mode():
        lease = pool.take(1000, 8, torch.float32)
        pool.give(lease)
    again = pool.take(1000, 8, torch.float32)
    assert again.flat is lease.flat
    again.tensor.fill_(1.0)


def test_an_empty_request_is_served() -> None:
    pool = Workspace()
    lease = pool.take(0, 8, torch.float32)
    assert lease.tensor.shape == (0, 8)
    pool.give(lease)
