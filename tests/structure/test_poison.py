"""Fresh memory really is poisoned where tensor code is tested, and only what Python asks for."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import POISONED_ROOMS, ROOT, _filled, _room


def test_fresh_floats_are_nan_and_fresh_integers_are_no_index() -> None:
    empty = _filled(torch.empty)
    assert empty(3).isnan().all()
    assert empty(3, dtype=torch.bfloat16).isnan().all()
    assert (empty(3, dtype=torch.int64) < -(2**60)).all()
    assert empty(3, device="meta").shape == (3,)
    assert empty(0).shape == (0,)
    assert empty(2, requires_grad=True).requires_grad


def test_other_ways_to_ask_are_covered() -> None:
    assert _filled(torch.empty_like)(torch.ones(2)).isnan().all()
    assert _filled(torch.Tensor.new_empty)(torch.ones(2), (4,)).isnan().all()


@pytest.mark.parametrize(
    ("path", "room"),
    [("tests/ops/x/test_a.py", "ops"), ("tests/test_cli.py", ""), ("tests/models/test_b.py", "models")],
)
def test_the_room_of_a_test_is_its_folder(path: str, room: str) -> None:
    assert _room(ROOT / path) == room
    assert room in (*POISONED_ROOMS, "")
