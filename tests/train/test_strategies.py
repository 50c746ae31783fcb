from pathlib import Path

from ctr_rec.train.strategies import stages
from tests.train.runs import small_run


def test_joint_is_one_stage_of_all_epochs() -> None:
    (stage,) = stages(small_run(Path("log"), epochs=5))
    assert (stage.name, stage.epochs) == ("joint", 5)
