"""The bench of mechanisms: every effect is there, and the two arms differ in one thing. Training is in tests/flow."""

from __future__ import annotations

from pathlib import Path

from ctr_rec.batch.planted import Effects
from ctr_rec.batch.planted_content import ContentEffects
from ctr_rec.bench.mechanisms import mechanisms


def test_every_planted_effect_has_a_case_and_stands_alone() -> None:
    assert {m.effect for m in mechanisms()} == set(Effects.model_fields) - set(ContentEffects.model_fields) - {
        "profile"
    }
    for mechanism in mechanisms():
        strengths = mechanism.settings.effects.model_dump()
        assert [name for name, value in strengths.items() if value] == [mechanism.effect]


def test_both_arms_train_alike_and_differ_in_one_setting() -> None:
    for mechanism in mechanisms():
        on, off = (arm.run("name", Path("log"), mechanism.epochs, seed=1) for arm in (mechanism.on, mechanism.off))
        assert (on.dense, on.schedule, on.train, on.sharding) == (off.dense, off.schedule, off.train, off.sharding)
        if type(on.tower) is not type(off.tower):
            assert mechanism.effect == "drift", "only a history can be had by another tower alone"
            continue
        a, b = on.tower.model_dump(), off.tower.model_dump()
        changed = [f"tower.{name}" for name in a if a[name] != b[name]]
        changed += ["channels"] * (on.data.channels != off.data.channels)
        changed += ["exclude"] * (on.embedding.exclude != off.embedding.exclude)
        assert len(changed) == 1, (mechanism.effect, mechanism.model, changed)
