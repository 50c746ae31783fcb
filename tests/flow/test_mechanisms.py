"""From a log with one planted effect to the test AUC: the model that can see it is told from the one that cannot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ctr_rec.bench.mechanisms import Mechanism, measure, mechanisms
from ctr_rec.sharding.group import open_group

# What half the epochs on a smaller log must win, of what can be won over a coin.
WON = 0.75


@pytest.mark.parametrize(("effect", "model"), [("position", "DIN"), ("channel", "DIN")])
def test_a_mechanism_is_told_from_its_absence(effect: str, model: str, tmp_path: Path) -> None:
    mechanism = smaller(next(m for m in mechanisms() if (m.effect, m.model) == (effect, model)))
    with open_group("cpu") as group:
        (found,) = measure([mechanism], tmp_path, group)
    auc = found.comparison.difference("auc")
    assert auc.low > 0.05
    assert found.on - 0.5 > WON * (found.best - 0.5)
    assert found.on < found.best + 0.02


def smaller(mechanism: Mechanism) -> Mechanism:
    return replace(mechanism, world=mechanism.world.model_copy(update={"users": 1_300}), epochs=3)
