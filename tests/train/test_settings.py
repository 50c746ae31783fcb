import pytest
from pydantic import ValidationError

from ctr_rec.train.settings import DualLoss, SequenceThenSparse


def test_a_period_or_a_fade_of_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"period"):
        SequenceThenSparse(period=0)
    with pytest.raises(ValidationError, match=r"fade_steps"):
        DualLoss(fade_steps=0)
