"""GRAB's mechanisms: each planted effect of the synthetic log that one of them can see, with it and without it.

As in mechanisms.py. Profile tokens are shown where full tokens hold no profile and no token an action, so that nothing
else tells which group a user favours.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctr_rec.batch.planted import SEARCH, SyntheticConfig
from ctr_rec.bench.mechanisms import NO_TIME, SHORT_LIVES, SHOWN, SMALL_MLP, WORLD, Arm, Mechanism, run_all
from ctr_rec.bench.record import Emit
from ctr_rec.layers.context import ContextSettings
from ctr_rec.models.grab.config import ActionRole, Behaviours, Views
from ctr_rec.models.grab.tower import GRABConfig

SPAN = 80
USERS = {"users": 1_500}
GRAB_WORLD, GRAB_SHORT_LIVES = WORLD.model_copy(update=USERS), SHORT_LIVES.model_copy(update=USERS)
# At the other models' 1e-2 a layer with the norm behind it stays where it began, in either arm.
LR = 3e-3
NO_CONTEXT = ContextSettings(use_time=False, use_profile=False)
# What an action says counts by its event's likeness: neither is learnt while the other is small, so both begin large in
# the token. In the bias neither start made it better (LOG.md, 2026-11-27), so it has none.
STARTS: dict[ActionRole, dict[str, Any]] = {
    ActionRole.TOKEN: {"start_alike": True, "shared_tokenizer": True, "action_std": 0.2},
    ActionRole.BIAS: {},
}


def _grab(channels: Mapping[str, Behaviours] | None = None, **settings: Any) -> Arm:
    """One layer, without position and time unless asked for."""
    chosen: dict[str, Any] = {
        "context": NO_TIME,
        "use_position": False,
        "use_time": False,
        "channels": dict(channels or {"all": Behaviours(window=20)}),
        **settings,
    }
    tower = GRABConfig(
        width=32, layers=1, heads=2, head_width=16, ffn=32, span=SPAN, dropout=0.0, mlp=SMALL_MLP, **chosen
    )
    return Arm(tower, {}, lr=LR)


def grab_mechanisms() -> list[Mechanism]:
    """Every planted effect that GRAB has a mechanism for."""
    no_action, clock = ActionRole.NEITHER, ContextSettings()
    ordered, unsaid = _grab(use_position=True), _grab(use_position=True, action=no_action)
    apart = {"searches": Behaviours(actions=(SEARCH,), window=10), "shown": Behaviours(actions=SHOWN, window=10)}
    long, short = ({"all": Behaviours(window=window)} for window in (SPAN, 10))
    faceless: dict[str, Any] = {"use_position": True, "action": no_action, "context": NO_CONTEXT}
    return [
        _row("position", 3.0, "use_position", ordered, _grab()),
        _row("time_gap", 5.0, "use_time", _grab(use_position=True, use_time=True), ordered),
        *(
            _row(
                "action_kind",
                10.0,
                f"action in the {role.value}",
                _grab(use_position=True, action=role, **start),
                _grab(use_position=True, action=no_action, **start),
                12,
            )
            for role, start in STARTS.items()
        ),
        _row(
            "channel",
            5.0,
            "a channel for searches, one for shown items",
            _grab(apart, use_position=True, action=no_action),
            unsaid,
        ),
        _row("profile", 4.0, "profile_tokens", _grab(profile_tokens=True, **faceless), _grab(**faceless)),
        _row("long_term", 4.0, f"window of {SPAN} events, not 10", _grab(long), _grab(short), world=GRAB_SHORT_LIVES),
        _row(
            "time_of_day",
            1.0,
            "queries are full tokens, not partial ones",
            _grab(context=clock),
            _grab(context=clock, views=Views.PARTIAL),
        ),
    ]


def _row(
    effect: str, strength: float, switch: str, on: Arm, off: Arm, epochs: int = 8, world: SyntheticConfig = GRAB_WORLD
) -> Mechanism:
    return Mechanism(effect, strength, "GRAB", switch, on, off, world, epochs)


def run(emit: Emit, log: Path | None = None) -> None:
    """As mechanisms.run, for GRAB alone. `log` is not used."""
    del log
    run_all(emit, grab_mechanisms(), "grab_mechanisms")
