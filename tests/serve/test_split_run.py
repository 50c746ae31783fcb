from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ctr_rec.batch.reader import Reader
from ctr_rec.errors import ConfigError
from ctr_rec.models.baselines.din import DINConfig
from ctr_rec.models.ranker import Ranker
from ctr_rec.serve.split_run import SplitRun
from tests.serve.requests import data_config, make_ranker, make_users, write


def test_logits_are_the_packed_ones_and_their_distance_is_told(tmp_path: Path) -> None:
    spec = write(tmp_path, make_users(), delay=50)
    ranker = make_ranker(spec)
    split_run = SplitRun(ranker, micro_batch=3)
    states = 0
    with torch.no_grad():
        for batch in Reader(data_config(tmp_path), spec, "train", seed=0).batches(0):
            torch.testing.assert_close(split_run(batch), ranker(batch), rtol=0, atol=1e-12)
            states += batch.num_users
    assert split_run.users == states
    assert split_run.state_bytes > 0
    assert split_run.largest_difference < 1e-12


def test_a_distance_is_not_overlooked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = write(tmp_path, make_users(), delay=0)
    ranker = make_ranker(spec)
    split_run = SplitRun(ranker, micro_batch=3)
    monkeypatch.setattr("ctr_rec.serve.split_run.score_candidates", lambda *args: args[4].label.double() + 100)
    with torch.no_grad():
        split_run(next(iter(Reader(data_config(tmp_path), spec, "train", seed=0).batches(0))))
    assert split_run.largest_difference > 10


def test_a_tower_without_a_state_is_refused(tmp_path: Path) -> None:
    spec = write(tmp_path, make_users(), delay=0)
    with pytest.raises(ConfigError, match="DINTower has no state"):
        SplitRun(Ranker(spec, DINConfig(), ("all",)), 3)
