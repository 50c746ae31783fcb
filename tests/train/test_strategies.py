from pathlib import Path

from tests.train.runs import small_run

from ctr_rec.train.strategies import stages


def test_joint_is_one_stage_of_all_epochs() -> None:
    (stage,) = stages(small_run(Path("log"), epochs=5))
    assert (stage.name, stage.epochs) == ("joint", 5)
