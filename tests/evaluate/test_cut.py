"""Scoring on shortened input: what each filling becomes, and what it leaves in the run folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ctr_rec.batch.config import Alone, Channel, DataConfig, Packed, Pointwise
from ctr_rec.errors import ConfigError
from ctr_rec.evaluate import main
from ctr_rec.evaluate.cut import TOKENS, cut_run
from ctr_rec.evaluate.predictions import Predictions
from ctr_rec.models.baselines.hstu import HSTUConfig
from ctr_rec.models.baselines.mlp import MLPConfig
from ctr_rec.train.run import Run
from tests.evaluate.runs import make_log, train_alone, two_channel_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cut")
    return train_alone(two_channel_run(make_log(folder / "log")), folder / "run")


def test_pointwise_windows_are_cut_where_they_are() -> None:
    run = two_channel_run(Path("log"))
    cut = cut_run(run, 5)
    assert cut.data.batches == Pointwise(impressions=64, history=5)
    assert cut.data.channels == run.data.channels
    assert cut.model_copy(update={"data": run.data}) == run


def test_packed_users_are_scored_one_impression_at_a_time() -> None:
    data = DataConfig(log="log", label="liked", batches=Packed(tokens=1024, context=100))
    run = Run(name="packed", data=data, tower=HSTUConfig(layers=2, window=50))
    assert cut_run(run, 8).data.batches == Alone(impressions=4096, history=8, tokens=TOKENS)
    # Two layers of 50 reach 100 events back: a longer cut takes nothing away (tests/flow/test_alone.py).
    assert cut_run(run, 100).data.batches == run.data.batches
    assert cut_run(run, 99).data.batches == Alone(impressions=4096, history=99, tokens=TOKENS)
    alone = run.model_copy(update={"data": data.model_copy(update={"batches": Alone(history=4)})})
    assert cut_run(alone, 1024).data.batches == Alone(impressions=4096, history=1024, tokens=TOKENS)
    far = run.model_copy(update={"tower": HSTUConfig(layers=2, window=2 * TOKENS)})
    assert cut_run(far, TOKENS).data.batches == Alone(impressions=4096, history=TOKENS, tokens=TOKENS + 1)


def test_cuts_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="history: expected one event or more, got 0"):
        cut_run(two_channel_run(Path("log")), 0)
    run = Run(name="no history", data=DataConfig(log="log", label="liked"), tower=MLPConfig())
    with pytest.raises(ConfigError, match=r"history 8: batches.history=8 would have no effect.*no"):
        cut_run(run, 8)


def test_a_cut_scoring_has_files_of_its_own(trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    main.evaluate(run, "test")
    before = {path: path.read_bytes() for folder in ("metrics", "predictions") for path in (run / folder).iterdir()}
    report = (run / "report.html").read_bytes()
    for history in (2, 1000):
        main.evaluate(run, "test", history=history)
    assert {path: path.read_bytes() for path in before} == before
    assert (run / "report.html").read_bytes() == report
    assert json.loads((run / "metrics" / "test-history-2.json").read_text())["history"] == 2
    assert "history" not in json.loads((run / "metrics" / "test.json").read_text())
    scored = json.loads((run / "test-scored.json").read_text())["scored"]
    assert [one["by"] for one in scored][1:] == ["evaluate on history 2, step 6", "evaluate on history 1000, step 6"]


def test_less_history_gives_other_scores_and_enough_gives_the_same(trained: Path, tmp_path: Path) -> None:
    made = {}
    for history in (None, 12, 1000):
        main.predict(trained, tmp_path / f"{history}.parquet", "valid", history=history)
        made[history] = Predictions.load(tmp_path / f"{history}.parquet")
    assert np.array_equal(made[None].impression, made[12].impression)
    assert np.array_equal(made[None].history_length, made[12].history_length)
    assert np.array_equal(made[None].logit, made[1000].logit)
    # Channels of eight and of three of the three kinds reach about twice as far back.
    long = made[None].history_length > 20
    assert (made[None].logit[long] != made[12].logit[long]).mean() > 0.5
    short = made[None].history_length <= 12
    assert np.array_equal(made[None].logit[short], made[12].logit[short])
    assert short.any()


def test_events_of_a_channel_beyond_the_cut_are_dropped(trained: Path, tmp_path: Path) -> None:
    """The last two events, not the last two of each channel: channels that end with a cut to two would give others."""
    per_channel = two_channel_run(Path("log")).data.channels
    shorter = {name: Channel(actions=c.actions, last=2) for name, c in per_channel.items()}
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    config = json.loads((run / "config.json").read_text())
    main.predict(run, tmp_path / "cut.parquet", "valid", history=2)
    config["data"]["channels"] = {name: channel.model_dump() for name, channel in shorter.items()}
    (run / "config.json").write_text(json.dumps(config))
    main.predict(run, tmp_path / "channels.parquet", "valid")
    cut, channels = (Predictions.load(tmp_path / f"{name}.parquet") for name in ("cut", "channels"))
    assert (cut.logit != channels.logit).any()
