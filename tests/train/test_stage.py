from dataclasses import FrozenInstanceError

import pytest

from ctr_rec.train.stage import Stage


def test_a_stage_is_data_that_nobody_changes() -> None:
    stage = Stage(name="joint", epochs=2)
    with pytest.raises(FrozenInstanceError):
        stage.epochs = 3  # type: ignore[misc]
