from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch

from ctr_rec.checkpoint.random_state import random_state, set_random_state
from ctr_rec.checkpoint.store import read_rank_state, write_rank_state


def draws() -> list[float]:
    """From every generator, and an odd number of normals, so that a cached second one counts too."""
    normals = [random.gauss(0, 1), np.random.randn(), torch.randn(3)[2].item()]
    return [random.random(), np.random.rand(), torch.rand(1).item(), *normals]


def test_generators_go_on_where_they_were_after_a_round_trip_through_files(tmp_path: Path) -> None:
    draws()
    write_rank_state(tmp_path, random_state(), 3)
    expected = [draws(), draws()]
    draws()
    set_random_state(read_rank_state(tmp_path, 3))
    assert [draws(), draws()] == expected
