"""Day by day over increments: equal to the whole log, to `evaluate`, and to itself after a kill anywhere."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctr_rec.batch.config import Channel, DataConfig, Packed, Pointwise
from ctr_rec.checkpoint.history import committed
from ctr_rec.checkpoint.manifest import read_manifest
from ctr_rec.evaluate import main
from ctr_rec.evaluate.days import Days
from ctr_rec.evaluate.predictions import Predictions
from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.models.baselines.din import DINConfig
from ctr_rec.models.baselines.hstu import HSTUConfig
from ctr_rec.models.grab.config import Behaviours
from ctr_rec.models.grab.tower import GRABConfig
from ctr_rec.models.tower import TowerConfig
from ctr_rec.schema.log import Split
from ctr_rec.schema.manifest import load_manifest
from ctr_rec.schema.periods import load_periods
from ctr_rec.schema.table import EmbeddingSettings
from ctr_rec.sharding.group import Group, open_group
from ctr_rec.train.build import build as build_run
from ctr_rec.train.folder import RunFolder
from ctr_rec.train.follow import follow_periods
from ctr_rec.train.run import Checkpointing, Run, TrainConfig
from ctr_rec.train.trainer import Trainer
from tests.flow.test_growing import whole_checkpoint
from tests.prepare.raws import build
from tests.prepare.test_periods import HOURLY, Grid, cut, hourly_raw
from tests.ranks import run_ranks, start_ranks

CONTEXT = 6
HSTU = HSTUConfig(
    width=8, heads=2, head_width=4, layers=2, window=3, dropout=0.0, mlp=MLPSettings(hidden=(8,), dropout=0.0)
)
GRAB = GRABConfig(
    width=8,
    heads=2,
    head_width=4,
    ffn=16,
    layers=2,
    span=3,
    channels={"all": Behaviours(window=3), "clicked": Behaviours(actions=(1, 2), window=2)},
)


@pytest.fixture(scope="module")
def periods(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three periods of five hours; users have about 40 events in all, so most is cut away."""
    folder = tmp_path_factory.mktemp("logs") / "periods"
    assert len(cut(hourly_raw(), folder, Grid("5h"), CONTEXT).periods) == 3
    return folder


def packed(tower: TowerConfig = HSTU, log: str = "") -> Run:
    """Embeddings large enough that a missing event shows."""
    return Run(
        name="follows",
        data=DataConfig(log=log, label="click", batches=Packed(tokens=128, context=CONTEXT), buffer_row_groups=2),
        tower=tower,
        embedding=EmbeddingSettings(dim=4, init_std=0.5, exclude=("dwell",)),
        train=TrainConfig(epochs=2, threads=1, log_every=2, window=500),
        checkpoint=Checkpointing(every=3, keep=50),
    )


def pointwise() -> Run:
    run = packed()
    data = DataConfig(log="", label="click", batches=Pointwise(impressions=64), channels={"all": Channel(last=CONTEXT)})
    return Run(**{**dict(run), "data": data, "tower": DINConfig()})


def scored(run: Run, log: Path) -> Predictions:
    """Its training range by the model as it starts: a function of the ids and the seed, so alike in every log."""
    run = run.model_copy(update={"data": run.data.model_copy(update={"log": str(log)})})
    with open_group("cpu") as group:
        built = build_run(run, group)
        return main.score_split(built, "train", built.scored("train"))[0]


@pytest.mark.parametrize("run", [packed(HSTU), packed(GRAB), pointwise()], ids=["hstu", "grab", "din"])
def test_an_increment_scores_as_the_whole_log_does(periods: Path, tmp_path: Path, run: Run) -> None:
    _, second, third = load_periods(periods).periods
    split = Split(train_start=third.after, train_end=third.to)
    whole = build(hourly_raw(), tmp_path / "whole", HOURLY, split, grow=periods / second.name)
    assert load_manifest(periods / third.name).events < 0.8 * whole.events
    ours, theirs = scored(run, periods / third.name), scored(run, tmp_path / "whole")
    assert len(ours) == third.impressions
    assert np.array_equal(ours.item, theirs.item)
    assert np.array_equal(ours.request_time, theirs.request_time)
    assert theirs.history_length.max() > 2 * CONTEXT
    assert ours.logit == pytest.approx(theirs.logit, abs=1e-6)
    assert theirs.logit.std() > 1e-3


def test_less_context_than_the_reach_would_show(periods: Path, tmp_path: Path) -> None:
    """What the comparison above rests on: with one event of context the scores are others."""
    third = load_periods(periods).periods[2]
    short = cut(hourly_raw(), tmp_path / "short", Grid("5h"), 1).periods[2]
    manifest = tmp_path / "short" / short.name / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "context": None}))
    ours, theirs = scored(packed(HSTU), tmp_path / "short" / short.name), scored(packed(HSTU), periods / third.name)
    assert np.abs(ours.logit - theirs.logit).max() > 1e-4


def follow(group: Group, run: Run, periods: Path, folder: Path, resume: bool = False) -> str:
    return follow_periods(run, periods, RunFolder(folder), group, resume)


def alone(run: Run, periods: Path, folder: Path, resume: bool = False) -> str:
    with open_group("cpu") as group:
        return follow(group, run, periods, folder, resume)


def days(folder: Path) -> list[dict[str, Any]]:
    """Without the seconds, which no two runs share."""
    lines = Days(folder).lines()
    for line in lines:
        for stage in line["stages"]:
            assert stage.pop("seconds") >= 0
    return lines


@pytest.fixture(scope="module")
def followed(periods: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert alone(packed(), periods, folder) == "finished"
    return folder


def same(folder: Path, expected: Path) -> None:
    """Days and weights, optimizer states included, to the bit; and no stage is told twice."""
    assert days(folder) == days(expected)
    ended = [[(x["step"], x["name"], x["steps"]) for x in RunFolder(f).stage_lines()] for f in (folder, expected)]
    assert ended[0] == ended[1]
    ours, theirs = whole_checkpoint(folder), whole_checkpoint(expected)
    assert ours.keys() == theirs.keys()
    different = [name for name, value in ours.items() if not torch.equal(value, theirs[name])]
    assert not different


def test_every_period_is_scored_and_trained_on(followed: Path, periods: Path) -> None:
    lines, known = days(followed), load_periods(periods).periods
    assert [(x["day"], x["impressions"]) for x in lines] == [(p.name, p.impressions) for p in known]
    assert lines[0]["scored_at_step"] == 0
    assert [x["checkpoint"] for x in lines[:-1]] == [f"step-{x['scored_at_step']}" for x in lines[1:]]
    for line in lines:
        assert [stage["name"] for stage in line["stages"]] == ["joint"]
        assert line["stages"][0]["steps"] == int(line["checkpoint"].removeprefix("step-")) - line["scored_at_step"] > 0
        assert 0 <= line["unseen_ids"] < 1
    assert (followed / "days.svg").read_text().startswith("<svg")
    of_checkpoints = {Path(read_manifest(path).config["data"]["log"]).name for _, path in committed(followed)}
    assert of_checkpoints == {p.name for p in known}, "a checkpoint says of which period it is"


def test_evaluate_says_the_same_of_every_day(
    followed: Path, periods: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(followed, tmp_path / "run"))
    lines = days(followed)
    for before, line in itertools.pairwise(lines):
        main.evaluate(run, "train", before["checkpoint"], periods / line["day"])
        found = json.loads((run / "metrics" / "train.json").read_text())
        assert found["metrics"] == {key: line[key] for key in found["metrics"]}
        assert found["unseen_ids"] == line["unseen_ids"]
        assert found["warnings"] == []
        new = {
            bucket["name"]: bucket["impressions"]
            for s in found["slices"]
            if s["by"] == "item"
            for bucket in s["buckets"]
        }
        assert sum(new.values()) == line["impressions"]
    capsys.readouterr()
    main.evaluate(run, "train", lines[-1]["checkpoint"], periods / lines[-1]["day"])
    assert "the model may have seen these impressions" in " ".join(capsys.readouterr().out.split())


class Killed(BaseException):
    pass


def killing(monkeypatch: pytest.MonkeyPatch, where: type, name: str, time: int, after: bool) -> None:
    """From its call number `time` on, a method kills, before or after it does its work."""
    method: Callable[..., Any] = getattr(where, name)
    calls = 0

    def killer(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= time and not after:
            raise Killed
        result = method(*args, **kwargs)
        if calls >= time:
            raise Killed
        return result

    monkeypatch.setattr(where, name, killer)


@pytest.mark.parametrize(
    ("where", "name", "time", "after"),
    [
        (Days, "scored", 1, True),  # the first period, before there is any checkpoint
        (Days, "scored", 2, True),  # between scoring and training
        (Days, "scored", 3, False),  # scored, and nothing written
        (Trainer, "_after_step", 2, True),  # before the first checkpoint of the first period
        (Trainer, "_after_step", 13, True),  # in the middle of a period
        (Days, "trained", 2, False),  # trained, and nothing said
        (Days, "draw", 1, False),
    ],
)
def test_killed_anywhere_it_comes_to_the_same(
    followed: Path,
    periods: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: type,
    name: str,
    time: int,
    after: bool,
) -> None:
    with monkeypatch.context() as patch:
        killing(patch, where, name, time, after)
        with pytest.raises(Killed):
            alone(packed(), periods, tmp_path / "run")
    assert alone(packed(), periods, tmp_path / "run", resume=True) == "finished"
    same(tmp_path / "run", followed)


def test_two_ranks_that_are_killed_come_to_the_same(followed: Path, periods: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run_ranks(follow, 2, packed(), periods, whole) == ["finished"] * 2
    (tmp_path / "meet").mkdir()
    ranks = start_ranks(follow, 2, tmp_path / "meet", packed(), periods, killed)  # type: ignore[arg-type]
    deadline = time.monotonic() + 100
    while len(Days(killed).lines()) < 2 and time.monotonic() < deadline and all(p.exitcode is None for p in ranks):
        time.sleep(0.01)
    for process in ranks:
        process.kill()
        process.join()
    assert run_ranks(follow, 2, packed(), periods, killed, True) == ["finished"] * 2
    same(killed, whole)
    for ours, one_rank in zip(days(whole), days(followed), strict=True):
        assert ours["logloss"] == pytest.approx(one_rank["logloss"], abs=1e-4)
        assert ours["unseen_ids"] == one_rank["unseen_ids"]


def test_periods_that_came_later_are_followed_on(followed: Path, periods: Path, tmp_path: Path) -> None:
    """Prepared and trained one by one, as a log comes in; and the end is the same."""
    fewer = Path(shutil.copytree(periods, tmp_path / "periods"))
    whole = json.loads((fewer / "periods.json").read_text())
    for count in (1, 2, 3):
        (fewer / "periods.json").write_text(json.dumps({**whole, "periods": whole["periods"][:count]}))
        assert alone(packed(), fewer, tmp_path / "run", resume=count > 1) == "finished"
        assert len(days(tmp_path / "run")) == count
    same(tmp_path / "run", followed)


def test_a_run_on_the_log_before_is_followed_on(periods: Path, tmp_path: Path) -> None:
    """Trained as ever on the first period's log, then followed from the second."""
    first = load_periods(periods).periods[0]
    fewer = Path(shutil.copytree(periods, tmp_path / "periods"))
    whole = json.loads((fewer / "periods.json").read_text())
    (fewer / "periods.json").write_text(json.dumps({**whole, "periods": whole["periods"][:1]}))
    alone(packed(), fewer, tmp_path / "run")
    (fewer / "periods.json").write_text(json.dumps({**whole, "periods": whole["periods"][1:]}))
    (tmp_path / "run" / "days.jsonl").unlink()
    assert alone(packed(), fewer, tmp_path / "run", resume=True) == "finished"
    lines = days(tmp_path / "run")
    assert [x["day"] for x in lines] == [p["name"] for p in whole["periods"][1:]]
    assert lines[0]["scored_at_step"] > 0
    assert first.name not in {x["day"] for x in lines}
