"""The whole tower: channels are independent of how they are stored, switches take parameters away, costs add up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from ctr_rec.errors import ConfigError
from ctr_rec.layers.context import ContextSettings
from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.models.grab.config import ActionRole, Behaviours, MixGate, Views
from ctr_rec.models.grab.tower import GRABConfig, GRABTower
from ctr_rec.models.tower import Filling
from tests.models.edges import check_edges
from tests.models.streams import ITEMS_ONLY, NUM_ACTIONS, SPEC, Log, look_up, make_batch, random_log

TWO = {"all": Behaviours(window=9), "liked": Behaviours(actions=(2, 3), window=9)}
SMALL = {"width": 6, "heads": 2, "head_width": 3, "ffn": 5, "span": 9}


def _score(tower: GRABTower, log: Log) -> torch.Tensor:
    batch = make_batch(log, Filling.PACKED)
    return tower(look_up(batch), batch)


def test_a_channel_of_all_actions_is_the_channel_of_all_events() -> None:
    """The compacted path and the path that shares the stream give the same, with the same weights."""
    whole = GRABTower(SPEC, GRABConfig(**SMALL, channels={"a": Behaviours(window=5)})).double().eval()
    every = Behaviours(actions=tuple(range(NUM_ACTIONS)), window=5)
    compacted = GRABTower(SPEC, GRABConfig(**SMALL, channels={"a": every})).double().eval()
    compacted.load_state_dict(whole.state_dict())
    log = random_log(seed=2)
    torch.testing.assert_close(_score(compacted, log), _score(whole, log), rtol=0, atol=1e-12)


def test_events_outside_a_channel_do_not_reach_it() -> None:
    log = random_log(seed=2)
    liked = GRABConfig(**SMALL, channels={"liked": TWO["liked"]})
    tower = GRABTower(SPEC, liked).double().eval()
    moved = replace(log, events=tuple(replace(e, slot=(e.slot + 1) % 3) if e.action < 2 else e for e in log.events))
    assert torch.equal(_score(tower, moved), _score(tower, log))
    inside = replace(log, events=tuple(replace(e, slot=(e.slot + 1) % 3) if e.action > 1 else e for e in log.events))
    assert not torch.equal(_score(tower, inside), _score(tower, log))


def test_the_state_is_every_channels_target_side_by_side() -> None:
    tower = GRABTower(SPEC, GRABConfig(**SMALL, channels=TWO))
    assert tower.out_width == 12
    assert _score(tower.double().eval(), random_log(seed=2)).shape[1] == 12
    assert GRABTower(SPEC, GRABConfig(**SMALL, channels=TWO, mlp=MLPSettings(hidden=(7,)))).out_width == 7


def test_each_switch_takes_its_parameters_away() -> None:
    def names(**settings: Any) -> set[str]:
        return {n for n, _ in GRABTower(SPEC, GRABConfig(**{**base, **settings})).named_parameters()}

    base: dict[str, Any] = {**SMALL, "channels": TWO, "profile_tokens": True}
    full = names()
    for settings, part in (
        ({"use_position": False}, "position_PE"),
        ({"use_time": False}, "time_BE"),
        ({"action": ActionRole.TOKEN}, "action_AE"),
        ({"action": ActionRole.BIAS}, "tokenizer.events.action"),
        ({"mix": MixGate.NONE}, "mixes."),
        ({"profile_tokens": False}, "profile."),
    ):
        assert any(part in n for n in full)
        assert full - names(**settings) == {n for n in full if part in n}, settings


@pytest.mark.parametrize(("views", "gone"), [(Views.PARTIAL, "full"), (Views.FULL, "partial")])
def test_one_view_alone_has_no_parameters_of_the_other(views: Views, gone: str) -> None:
    """And every parameter it has is trained, whatever the batch lacks."""
    config = GRABConfig(**SMALL, channels=TWO, views=views)
    names = [name for name, _ in GRABTower(SPEC, config).named_parameters()]
    assert not any(f"tokenizer.{gone}" in name for name in names)
    assert any("tokenizer.context" in name for name in names) == (views is Views.FULL)
    check_edges(config)


def test_without_mixing_channels_are_independent_towers() -> None:
    log = random_log(seed=3)
    both = GRABTower(SPEC, GRABConfig(**SMALL, channels=TWO, mix=MixGate.NONE)).double().eval()
    for number, name in enumerate(TWO):
        one = GRABTower(SPEC, GRABConfig(**SMALL, channels={name: TWO[name]})).double().eval()
        one.load_state_dict({k: v for k, v in both.state_dict().items() if k in one.state_dict()})
        torch.testing.assert_close(_score(both, log)[:, 6 * number : 6 * number + 6], _score(one, log))


def test_codes_of_actions_that_the_log_has_not_are_refused() -> None:
    for actions in ((1, NUM_ACTIONS), ()):
        with pytest.raises(ConfigError, match=r"tower\.channels\.x\.actions=.*from 0 to 3"):
            GRABTower(SPEC, GRABConfig(channels={"x": Behaviours(actions=actions)}))


def test_a_batch_without_events_scores_from_the_full_token_alone() -> None:
    log = random_log(seed=3)
    quiet = replace(log, events=())
    tower = GRABTower(SPEC, GRABConfig(**SMALL, channels=TWO)).double().eval()
    assert torch.isfinite(_score(tower, quiet)).all()


def test_flops_of_one_layer_by_hand() -> None:
    off = ContextSettings(use_profile=False, use_request=False, use_counters=False, use_time=False)
    tables = ITEMS_ONLY.model_copy(update={"tables": ITEMS_ONLY.tables[1:2]})
    config = GRABConfig(
        width=4, layers=1, heads=1, head_width=3, ffn=5, ages=7, span=9, context=off, channels={"a": TWO["all"]}
    )
    batch = make_batch(random_log(seed=1), Filling.PACKED, tables)
    t, n, m = batch.num_events, batch.num_impressions, batch.item.shape[0]
    start = batch.event_offsets[batch.impression_user]
    seen = int((batch.visible_end - start).clamp(max=9).sum()) + n
    tokens = 2 * m * 2 * (4 * 8) + 2 * (t + n) * 16
    attention = 2 * (t + n) * 4 * 6 + 2 * n * (2 * 4 * 3 + 3 * (10 + 7) + 2 * 4 * 5) + seen * 2 * 2 * 3
    assert GRABTower(tables, config).flops(batch) == tokens + attention
