from dataclasses import FrozenInstanceError

import pytest

from ctr_rec.train.stage import Loss, Pass, Stage


def test_a_stage_is_data_that_nobody_changes() -> None:
    stage = Stage(name="joint", epochs=2)
    with pytest.raises(FrozenInstanceError):
        stage.epochs = 3  # type: ignore[misc]


def test_the_weight_of_the_second_network_falls_in_even_steps_and_is_one_elsewhere() -> None:
    stage = Stage("fades", 1, goes_on=True, steps=3, fades=True)
    assert [stage.weight(done) for done in range(4)] == [0.75, 0.5, 0.25, 0.0]
    assert Stage("stays", 1).weight(7) == 1.0


def test_a_stage_knows_whether_the_second_network_takes_part() -> None:
    assert not Stage("joint", 1).reads_beside
    assert [Stage("s", 1, passes=(Pass(loss=loss),)).reads_beside for loss in Loss] == [False, True, True, True]
