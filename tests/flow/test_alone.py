"""Packed results equal scoring each impression alone with its own history, from the log to logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ctr_rec.batch.config import Alone, Batches, DataConfig, Packed
from ctr_rec.config import override
from ctr_rec.evaluate import main
from ctr_rec.evaluate.predictions import Predictions
from ctr_rec.models.baselines.hstu import HSTUConfig
from ctr_rec.models.grab.config import Behaviours
from ctr_rec.models.grab.tower import GRABConfig
from ctr_rec.models.tower import TowerConfig
from ctr_rec.sharding.group import open_group
from ctr_rec.train.folder import RunFolder
from ctr_rec.train.run import Run
from tests.evaluate.runs import make_log, train_alone
from tests.train.runs import small_run

REACH = 14
TOWERS: dict[str, TowerConfig] = {
    "hstu": HSTUConfig(width=8, heads=2, head_width=4, window=7, layers=2),
    "grab": GRABConfig(
        width=8,
        heads=2,
        head_width=4,
        ffn=8,
        span=7,
        channels={"all": Behaviours(window=5), "liked": Behaviours(actions=(1,), window=3, seconds=400)},
    ),
}


def _run(log: Path, tower: TowerConfig) -> Run:
    """Batches so small that they cut most users."""
    data = DataConfig(log=str(log), label="liked", batches=Packed(tokens=64, context=REACH), buffer_row_groups=2)
    small = override(
        small_run(log, epochs=1), ["train.record_impressions=false", "train.max_steps=12", "embedding.init_std=1.0"]
    )
    dense = small.dense.model_copy(update={"lr": 0.003})
    return Run(**{**dict(small), "data": data, "tower": tower, "dense": dense})


def _scored(folder: Path, batches: Batches) -> Predictions:
    """Scores of the test range with batches filled in another way than the run was trained with."""
    run = RunFolder(folder).load_run()
    config = folder / "config.json"
    text = config.read_text()
    data = run.data.model_copy(update={"batches": batches})
    config.write_text(run.model_copy(update={"data": data}).model_dump_json())
    with open_group("cpu") as group:
        found = main.score(folder, "test", "last", None, group).predictions
    config.write_text(text)
    return found


@pytest.mark.parametrize("name", TOWERS)
def test_packed_users_score_as_each_impression_alone(name: str, tmp_path: Path) -> None:
    tower = TOWERS[name]
    assert tower.reach == REACH
    run = train_alone(_run(make_log(tmp_path / "log"), tower), tmp_path / "run")
    packed = _scored(run, Packed(tokens=64, context=REACH))
    assert (packed.history_length > REACH).mean() > 0.3
    assert np.std(packed.logit) > 0.05
    for batches in (Alone(impressions=9), Alone(impressions=50, history=REACH, tokens=200), Packed(tokens=5000)):
        other = _scored(run, batches)
        assert np.array_equal(other.impression, packed.impression)
        np.testing.assert_allclose(other.logit, packed.logit, rtol=0, atol=1e-5)
    cut = _scored(run, Alone(impressions=50, history=4))
    moved = np.abs(cut.logit - packed.logit) > 1e-4
    assert moved[packed.history_length > 4].mean() > 0.9
    assert not moved[packed.history_length <= 4].any()
