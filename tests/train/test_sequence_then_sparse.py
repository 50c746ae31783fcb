"""Sequence-Then-Sparse: each pass moves its half and nothing else, and a killed run ends as one that never was."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from ctr_rec.checkpoint.history import committed, latest
from ctr_rec.config import override
from ctr_rec.sharding.group import Group, open_group
from ctr_rec.train.build import build
from ctr_rec.train.feeds import Feeds
from ctr_rec.train.folder import RunFolder
from ctr_rec.train.main import fit
from ctr_rec.train.run import Run
from ctr_rec.train.seen import read_seen
from ctr_rec.train.stage import Feed, Part, Pass, Stage
from ctr_rec.train.step import Stepper
from ctr_rec.train.strategies import stages
from tests.batch.logs import random_users, write_log
from tests.ranks import forkserver, run_ranks
from tests.train.runs import bytes_of, moved, run_with_beside

STS = "train.sequence_then_sparse"
# Of runs that train no second network, so that its weights may be anything.
WARM = 'warm_start={"source": "old", "dense": "beside"}'
ARMS = {
    "trained": [],
    "frozen": [f"{STS}.head=frozen", WARM],
    "section_5_3": [f"{STS}.reading=section_5_3"],
    "alone": [f"{STS}.head=sequence", "data.channels={}", "beside=null"],
    "sequence": [f"{STS}.head=sequence", f"{STS}.reading=section_5_3", "data.channels={}", "beside=null"],
    "every second step": [f"{STS}.period=2"],
    "epoch": [f"{STS}.alternate=epoch"],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    log = tmp_path_factory.mktemp("log")
    write_log(log, random_users(seed=3, count=60))
    return run_with_beside(log)


def _what_moves(group: Group, run: Run) -> list[tuple[Pass, set[Part]]]:
    """Every pass of the first two steps of each stage, and what it moved on this rank."""
    built = build(run, group)
    stepper = Stepper(built.parallel, run.dense, group.size, torch.float32)
    found = []
    for stage in stages(run):
        steps = Feeds(built).epoch(stage, 0, 0)
        for _, passes in zip(range(2), steps, strict=False):
            for one, batch in passes:
                before = bytes_of(built, stepper)
                stepper.step(batch, 1.0, one)
                found.append((one, moved(before, bytes_of(built, stepper))))
    return found


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_pass_moves_exactly_what_it_names_optimizer_states_included(run: Run, arm: str, ranks: int) -> None:
    each = run_ranks(_what_moves, ranks, override(run, ARMS[arm]))
    assert len({len(found) for found in each}) == 1
    seen = set()
    for of_ranks in zip(*each, strict=True):
        one = of_ranks[0][0]
        assert set.union(*(parts for _, parts in of_ranks)) == one.trains
        seen |= one.trains
    assert {Part.TABLES, Part.SEQUENCE} <= seen


def _ids(feeds: Feeds, stage: Stage, start: int) -> list[tuple[Feed, list[int]]]:
    return [(one.feed, b.impression_id.tolist()) for step in feeds.epoch(stage, 0, start) for one, b in step]


def test_stage_two_has_the_impressions_of_the_epoch_once_each_whatever_the_period(run: Run) -> None:
    run = override(run, ["data.buffer_row_groups=16"])
    for period in (1, 2, 3):
        (stage,) = stages(override(run, [f"{STS}.period={period}"]))
        with open_group("cpu") as group:
            feeds = Feeds(build(run, group))
            whole = _ids(feeds, stage, 0)
            for start in (1, 3):
                rest = _ids(feeds, stage, start)
                assert rest == whole[len(whole) - len(rest) :]
        ids = {feed: [i for of, batch in whole if of is feed for i in batch] for feed in (Feed.OWN, Feed.SINGLE)}
        assert sorted(ids[Feed.OWN]) == sorted(ids[Feed.SINGLE])
        assert len(set(ids[Feed.OWN])) == len(ids[Feed.OWN])
        batches = Counter(feed for feed, _ in whole)
        assert abs(batches[Feed.SINGLE] - batches[Feed.OWN] / period) <= 1


def _fit_alone(run: Run, folder: Path, resume: bool) -> None:
    with open_group("cpu") as group:
        fit(run, RunFolder(folder), group, resume)


def _fit_on_ranks(group: Group, run: Run, folder: Path, resume: bool) -> int:
    return fit(run, RunFolder(folder), group, resume).position.step


def _state(folder: Path) -> dict[str, bytes]:
    named = ("manifest.json", ".metadata")
    return {p.name: p.read_bytes() for p in sorted(latest(folder).iterdir()) if p.name not in named}


def _seen(folder: Path) -> np.ndarray:
    return np.sort(read_seen(folder / "seen"), order=["step", "impression"])


@pytest.mark.parametrize("arm", ["every second step", "alone", "epoch"])
def test_a_run_killed_in_the_middle_of_an_epoch_ends_bit_identical(run: Run, arm: str, tmp_path: Path) -> None:
    run = override(run, [*ARMS[arm], "train.log_every=1", "checkpoint.every=3"])
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    _fit_alone(run, whole, False)
    process = forkserver().Process(target=_fit_alone, args=(run, killed, False))  # type: ignore[attr-defined]
    process.start()
    metrics = RunFolder(killed).metrics
    while process.exitcode is None and not (metrics.is_file() and metrics.read_text().count('"train"') >= 5):
        process.join(0.002)
    process.kill()
    process.join()
    if not committed(killed):
        shutil.rmtree(killed)
    _fit_alone(run, killed, killed.exists())
    assert _state(killed) == _state(whole)
    assert np.array_equal(_seen(killed), _seen(whole))
    # Both stages see every impression once an epoch.
    assert (np.unique(_seen(whole)["impression"], return_counts=True)[1] == 2 * run.train.epochs).all()


def test_two_ranks_take_as_many_steps_as_one_and_the_same_impressions(run: Run, tmp_path: Path) -> None:
    _fit_alone(run, tmp_path / "one", False)
    steps = run_ranks(_fit_on_ranks, 2, run, tmp_path / "two", False)
    assert steps == [int(_seen(tmp_path / "one")["step"].max())] * 2
    assert np.array_equal(_seen(tmp_path / "two"), _seen(tmp_path / "one"))
