from pathlib import Path

import pytest

from ctr_rec.config import override
from ctr_rec.errors import ConfigError
from ctr_rec.train.stage import Restart
from ctr_rec.train.strategies import stages
from tests.train.runs import small_run

RESET = "train.strategy=multi_epoch_sparse_reset"


def test_joint_is_one_stage_of_all_epochs() -> None:
    (stage,) = stages(small_run(Path("log"), epochs=5))
    assert (stage.name, stage.epochs, stage.restart) == ("joint", 5, None)


def test_sparse_reset_is_a_stage_for_each_epoch_and_all_but_the_first_begin_again() -> None:
    found = stages(override(small_run(Path("log"), epochs=3), [RESET, "train.sparse_reset.min_rows=7"]))
    assert [s.epochs for s in found] == [1, 1, 1]
    assert [s.restart for s in found] == [None, Restart(min_rows=7), Restart(min_rows=7)]


def test_fresh_values_differ_between_epochs() -> None:
    found = stages(override(small_run(Path("log"), epochs=3), [RESET, "train.sparse_reset.to=fresh"]))
    assert [s.restart.fresh for s in found if s.restart is not None] == [1, 2]


def test_settings_of_a_strategy_that_is_not_chosen_are_refused() -> None:
    run = override(small_run(Path("log")), ["train.sparse_reset.min_rows=7"])
    with pytest.raises(ConfigError, match=r"train\.strategy=joint resets nothing; set train\.strategy to multi_epoch"):
        stages(run)
