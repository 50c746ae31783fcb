"""Masses against the formula, pair by pair, with loops; one layer of one channel, and what must hold of several."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ctr_rec.inspect.attention_mass import AttentionMass, Mass
from ctr_rec.layers.packed import by_visible_end
from ctr_rec.layers.time import AGES
from ctr_rec.models.grab.config import ActionRole, Behaviours
from ctr_rec.models.grab.layer import GRABLayer
from ctr_rec.models.grab.tower import GRABConfig, GRABTower
from ctr_rec.models.tower import Filling
from tests.models.streams import NUM_ACTIONS, SPEC, Log, look_up, make_batch, random_log

ONE = GRABConfig(width=6, heads=2, head_width=3, ffn=5, span=9, layers=1, channels={"all": Behaviours(window=5)})
TWO = ONE.model_copy(
    update={
        "layers": 2,
        "channels": {"all": Behaviours(window=9), "liked": Behaviours(actions=(2, 3), window=4)},
    }
)


def _tower(config: GRABConfig) -> GRABTower:
    torch.manual_seed(0)
    tower = GRABTower(SPEC, config).double().eval()
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return tower


def _mass(tower: GRABTower, *logs: Log) -> AttentionMass:
    mass = AttentionMass(tower, NUM_ACTIONS, 1)
    for log in logs:
        batch = make_batch(log, Filling.PACKED)
        mass.add(look_up(batch), batch)
    return mass


def _by_hand(tower: GRABTower, log: Log, window: int) -> Mass:
    """Of the only layer of the only channel, which holds all events."""
    mass = Mass.zeros(window + 1, NUM_ACTIONS)
    batch = make_batch(log, Filling.PACKED)
    layer = tower.stacks["all"][0]  # type: ignore[index]
    assert isinstance(layer, GRABLayer)
    embedded = look_up(batch)
    with torch.no_grad():
        partial, full = tower.tokenizer.partial_tokens(embedded, batch), tower.tokenizer.full_tokens(embedded, batch)
        for n, impression in enumerate(log.impressions):
            end, start = int(batch.visible_end[n]), int(batch.event_offsets[impression.user])
            seen = range(max(start, end - window), end)
            for head in range(2):
                q = layer.query(full[n]).view(2, 3)[head]
                logits = []
                for j in [*seen, None]:
                    x = full[n] if j is None else partial[j]
                    key = layer.key_value(x).view(2, 2, 3)[0, head]
                    age = 0 if j is None else impression.request_time - int(batch.event_known_at[j])
                    action = NUM_ACTIONS if j is None else int(batch.event_action[j])
                    rows = (0 if j is None else end - j, (age + 1).bit_length() - 1, action)
                    for codes, row in zip((layer.position_PE, layer.time_BE, layer.action_AE), rows, strict=True):
                        key = key if codes is None else key + codes[row]
                    logits.append((q @ key) / 3**0.5)
                weights = torch.stack(logits).softmax(0) / 2
                mass.own += float(weights[-1])
                for j, weight in zip(seen, weights, strict=False):
                    age = impression.request_time - int(batch.event_known_at[j])
                    mass.position[end - j] += weight
                    mass.time[(age + 1).bit_length() - 1] += weight
                    mass.action[int(batch.event_action[j])] += weight
    return mass


@pytest.mark.parametrize(
    "changed", [{}, {"use_position": False}, {"use_time": False}, {"action": ActionRole.TOKEN}], ids=str
)
def test_masses_are_those_of_the_formula(changed: dict[str, object]) -> None:
    tower, log = _tower(ONE.model_copy(update=changed)), random_log(4, delay=4)
    found = _mass(tower, log).channels["all"].layers[0]
    want = _by_hand(tower, log, window=5)
    for part in ("position", "time", "action"):
        torch.testing.assert_close(getattr(found, part), getattr(want, part), rtol=0, atol=1e-10)
    assert found.own == pytest.approx(want.own, abs=1e-10)


def test_everything_adds_up_to_one_per_impression_in_every_channel_and_layer() -> None:
    mass = _mass(_tower(TWO), random_log(3), random_log(4, delay=4))
    assert mass.impressions == len(random_log(3).impressions) + len(random_log(4).impressions)
    for channel in mass.channels.values():
        for one in (*channel.layers, channel.even):
            shares = one.shares(mass.impressions)
            for part in (shares.position, shares.time, shares.action):
                assert float(part.sum()) + shares.own == pytest.approx(1, abs=1e-9)
            assert shares.position[0] == 0
    liked = mass.channels["liked"].layers[1].action
    assert not liked[:2].any()
    assert liked[2:].all()
    assert mass.channels["all"].layers[0].time.shape == (AGES,)


def test_equal_weights_count_visible_keys_and_the_own_one() -> None:
    log = random_log(3)
    batch = make_batch(log, Filling.PACKED)
    count = (batch.visible_end - batch.event_offsets[batch.impression_user]).clamp(max=5)
    even = _mass(_tower(ONE), log).channels["all"].even
    assert even.own == pytest.approx(float((1 / (1 + count.double())).sum()))
    assert float(even.position[1]) == pytest.approx(float(((count > 0) / (1 + count.double())).sum()))


def test_a_stand_in_counts_nothing_and_no_event_leaves_the_own_key() -> None:
    log = random_log(3)
    batch = make_batch(log, Filling.PACKED)
    mass = AttentionMass(_tower(TWO), NUM_ACTIONS, 1)
    mass.add(look_up(batch), replace(batch, weight=torch.zeros_like(batch.weight)))
    assert mass.impressions == 0
    assert mass.channels["all"].layers[0].own == 0
    quiet = _mass(_tower(TWO), replace(log, events=()))
    for layer in quiet.channels["liked"].layers:
        assert layer.own == pytest.approx(len(log.impressions))
        assert not layer.position.any()


def test_the_weights_watched_are_those_of_the_pass() -> None:
    """Watching changes no output, and the impressions come in the order of the queries."""
    tower, batch = _tower(TWO), make_batch(random_log(3), Filling.PACKED)
    embedded = look_up(batch)
    state = tower.encode_history(embedded, batch)
    seen: list[tuple[str, int]] = []
    out = tower.score(state, embedded, batch, lambda name, depth, blocks: seen.append((name, depth)))
    assert torch.equal(out, tower(embedded, batch))
    assert seen == [("all", 0), ("liked", 0), ("all", 1), ("liked", 1)]
    assert sorted(by_visible_end(batch).tolist()) == list(range(batch.num_impressions))
