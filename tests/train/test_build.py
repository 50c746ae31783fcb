from pathlib import Path

import numpy as np
import pytest
import torch

from ctr_rec.config import override
from ctr_rec.errors import ConfigError, DataError
from ctr_rec.schema.log import Split
from ctr_rec.sharding.group import Group, open_group
from ctr_rec.train.build import build
from ctr_rec.train.run import Run
from tests.batch.logs import random_users, write_log
from tests.ranks import run_ranks
from tests.train.runs import small_run


def _start(group: Group, run: Run) -> float:
    """A number that every weight of this rank's start enters."""
    built = build(run, group)
    return sum(float(p.detach().double().square().sum()) for p in built.parallel.dense_parameters.values())


def test_ranks_start_alike_and_by_the_seed(tmp_path: Path) -> None:
    write_log(tmp_path, random_users(seed=1))
    run = small_run(tmp_path)
    alone = run_ranks(_start, 1, run)[0]
    assert run_ranks(_start, 2, run) == [alone, alone]
    assert run_ranks(_start, 1, override(run, ["train.seed=2"]))[0] != alone


def test_only_training_is_shuffled(tmp_path: Path) -> None:
    write_log(tmp_path, random_users(seed=1, count=30))
    with open_group("cpu") as group:
        built = build(small_run(tmp_path), group)
        orders = {
            split: [torch.cat([b.impression_id for b in built.reader(split, seed).batches(0)]) for seed in (1, 2)]
            for split in ("train", "valid")
        }
    assert not torch.equal(*orders["train"])
    assert torch.equal(*orders["valid"])
    assert built.item_is_new.dtype == np.bool_


def test_a_folder_that_is_no_log_is_refused(tmp_path: Path) -> None:
    with open_group("cpu") as group, pytest.raises(DataError, match=r"is not a prepared log: it has no manifest.json"):
        build(small_run(tmp_path / "nothing"), group)


def test_a_log_without_training_impressions_is_refused(tmp_path: Path) -> None:
    write_log(tmp_path, random_users(seed=1), split=Split(train_end=-5, valid_end=900))
    with open_group("cpu") as group, pytest.raises(ConfigError, match=r"no impression in its training range"):
        build(small_run(tmp_path), group)


def _refused(group: Group, run: Run) -> str:
    try:
        build(run, group)
    except ConfigError as error:
        return str(error)
    return ""


def test_mean_gradients_are_refused_on_several_ranks(tmp_path: Path) -> None:
    write_log(tmp_path, random_users(seed=1))
    run = override(small_run(tmp_path), ["sharding.optimizer.gradient=mean"])
    assert run_ranks(_refused, 1, run) == [""]
    for message in run_ranks(_refused, 2, run):
        assert "gradient=mean counts the occurrences of a row on one rank and there are 2" in message
