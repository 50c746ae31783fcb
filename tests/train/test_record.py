import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ctr_rec.sharding.group import open_group
from ctr_rec.train.build import build
from ctr_rec.train.record import Interval, IntervalLog, Record
from ctr_rec.train.step import StepResult
from tests.batch.logs import random_users, write_log
from tests.train.runs import small_run


def test_a_line_sums_what_the_interval_saw(tmp_path: Path) -> None:
    write_log(tmp_path, random_users(seed=4, count=20))
    with open_group("cpu") as group:
        built = build(small_run(tmp_path), group)
        log = IntervalLog(group, window=1000)
        batches = list(built.reader("train", 1).batches(0))[:3]
        for batch in batches:
            losses = torch.full((batch.num_impressions,), 0.5)
            log.add(batch, StepResult(torch.zeros(batch.num_impressions), losses.sum().double()))
        line = log.line(waited=0.0)
        lengths = [h.lengths() for b in batches for h in b.histories.values()]
    assert line["loss"] == pytest.approx(0.5)
    assert line["window_auc"] == 0.5
    padded = sum(int(n.max()) * len(n) for n in lengths)
    assert line["density"] == pytest.approx(sum(int(n.sum()) for n in lengths) / padded)
    assert line["tokens_per_s"] / line["impressions_per_s"] == pytest.approx(
        sum(int(n.sum()) for n in lengths) / sum(len(n) for n in lengths)
    )
    assert log.interval.steps == 0


def test_an_interval_survives_a_checkpoint() -> None:
    one = Interval(loss_sum=1.5, weight=3.0, impressions=3, tokens=10, padded=20, steps=2)
    other = Interval()
    other.load_array(one.to_array())
    assert np.array_equal(other.to_array(), one.to_array())
    assert isinstance(other.steps, int)


def test_lines_are_json_on_the_main_rank_only(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with Record(tmp_path, main=True, total_steps=5) as record, Record(tmp_path / "other", False, 5) as silent:
        record.write("valid", 3, {"auc": 0.75, "gauc": float("nan")})
        silent.write("valid", 3, {"auc": 0.1})
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    # Strict JSON: what is undefined is null, which every reader accepts.
    assert json.loads(line, parse_constant=pytest.fail) == {"kind": "valid", "step": 3, "auc": 0.75, "gauc": None}
    assert list((tmp_path / "tensorboard").iterdir())
    assert not list((tmp_path / "other").iterdir())
