"""GRAB's mechanisms: planted alone, one switch apart, trained alike. Training is `ctr-rec bench grab_mechanisms`."""

from __future__ import annotations

from pathlib import Path

from ctr_rec.bench.grab_mechanisms import grab_mechanisms
from ctr_rec.models.grab.config import ActionRole
from ctr_rec.models.grab.tower import GRABConfig


def test_each_effect_stands_alone() -> None:
    for mechanism in grab_mechanisms():
        strengths = mechanism.settings.effects.model_dump()
        assert [name for name, value in strengths.items() if value] == [mechanism.effect]
    assert {m.effect for m in grab_mechanisms()} == {
        "position",
        "time_gap",
        "action_kind",
        "channel",
        "profile",
        "long_term",
        "time_of_day",
    }


def test_both_arms_train_alike_and_differ_in_one_setting_of_the_tower() -> None:
    for mechanism in grab_mechanisms():
        on, off = (arm.run("name", Path("log"), mechanism.epochs, seed=1) for arm in (mechanism.on, mechanism.off))
        assert on.model_copy(update={"tower": off.tower}) == off
        assert isinstance(on.tower, GRABConfig)
        a, b = on.tower.model_dump(), off.tower.model_dump()
        changed = [name for name in a if a[name] != b[name]]
        assert len(changed) == 1, (mechanism.effect, mechanism.switch, changed)


def test_only_a_profile_token_can_tell_a_users_leaning() -> None:
    (mechanism,) = (m for m in grab_mechanisms() if m.effect == "profile")
    for arm, has_tokens in ((mechanism.on, True), (mechanism.off, False)):
        assert isinstance(arm.tower, GRABConfig)
        assert arm.tower.profile_tokens == has_tokens
        assert not arm.tower.context.use_profile
        assert arm.tower.action is ActionRole.NEITHER, "what a user clicked says how it leans"
