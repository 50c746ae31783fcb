"""From a log with one planted effect to the test AUC: the model that can see it is told from the one that cannot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ctr_rec.bench.est_mechanisms import est_mechanisms
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


def test_likeness_is_told_from_its_absence_and_from_a_placebo(tmp_path: Path) -> None:
    row = next(m for m in est_mechanisms() if m.effect == "content_interest")
    on, off = (replace(arm, impressions=256) for arm in (row.on, row.off))
    assert row.placebo is not None
    own, other = (world.model_copy(update={"users": 250}) for world in (row.world, row.placebo))
    with open_group("cpu") as group:
        (found,) = measure([replace(row, on=on, off=off, world=own, placebo=other, epochs=2)], tmp_path, group)
    assert found.placebo is not None
    assert found.comparison.difference("auc").low > 0.05
    assert found.reached > WON
    assert abs(found.share(found.placebo)) < 0.2


def smaller(mechanism: Mechanism) -> Mechanism:
    return replace(mechanism, world=mechanism.world.model_copy(update={"users": 1_300}), epochs=3)
