"""No tower may be moved by what its impression may not see: hidden events are flipped, replaced, moved, deleted and
inserted, and gradients to them are exactly zero; a visible event does matter. A new tower adds its row to CASES.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch

from ctr_rec.layers.context import ContextSettings
from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.layers.retrieval import RetrievalSettings, Search
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.baselines.autoint import AutoIntConfig
from ctr_rec.models.baselines.bst import BSTConfig
from ctr_rec.models.baselines.dcn_v2 import DCNv2Config, Structure
from ctr_rec.models.baselines.din import DINConfig
from ctr_rec.models.baselines.full_attention import Block, FullAttentionConfig
from ctr_rec.models.baselines.hiformer import HiFormerConfig
from ctr_rec.models.baselines.hstu import AttentionNorm, HSTUConfig
from ctr_rec.models.baselines.longer import LongerConfig
from ctr_rec.models.baselines.mlp import MLPConfig
from ctr_rec.models.baselines.mtgr import MTGRConfig
from ctr_rec.models.baselines.onetrans import OneTransConfig, Retrieved
from ctr_rec.models.baselines.rankmixer import RankMixerConfig
from ctr_rec.models.baselines.sim import SIMConfig
from ctr_rec.models.baselines.token_dcn_v2 import TokenDCNv2Config
from ctr_rec.models.baselines.token_mlp import TokenMLPConfig
from ctr_rec.models.baselines.twin import TWINConfig
from ctr_rec.models.est.packed import PackedESTConfig
from ctr_rec.models.est.tower import ESTConfig
from ctr_rec.models.grab.config import ActionRole, Behaviours, MixGate, Views
from ctr_rec.models.grab.tower import GRABConfig
from ctr_rec.models.tower import TowerConfig
from tests.models.streams import ITEMS_ONLY, NUM_ACTIONS, NUM_ITEMS, Event, Impression, Log, Scorer, look_up, random_log


def _tokens(retrieval: RetrievalSettings) -> TokenSettings:
    return TokenSettings(width=6, recent="all", content="content", retrieval=retrieval, simtier=True)


# They cannot grow by a profile feature, see models/grab/profile.py.
PROFILE_TOKENS: dict[str, TowerConfig] = {
    "grab_profile_tokens": GRABConfig(
        width=8,
        layers=3,
        heads=2,
        head_width=3,
        ffn=6,
        span=6,
        profile_tokens=True,
        channels={"all": Behaviours(window=5), "few": Behaviours(actions=(1, 2), window=3)},
    ),
    "grab_profile_tokens_full_only": GRABConfig(
        width=6,
        heads=1,
        head_width=4,
        ffn=6,
        latent=3,
        span=6,
        views=Views.FULL,
        profile_tokens=True,
        context=ContextSettings(use_profile=False),
        channels={"all": Behaviours(window=6)},
    ),
}
TOKENS = TokenSettings(width=6, recent="all")
BY_ID = TokenSettings(
    width=6, recent="all", retrieval=RetrievalSettings(channel="all", most=2, by=Search.ID, feature="item")
)
BY_GENRE = TokenSettings(
    width=6, recent="all", retrieval=RetrievalSettings(channel="all", most=2, by=Search.CATEGORY, feature="genres")
)
CASES: dict[str, TowerConfig] = {
    "full_attention": FullAttentionConfig(tokens=BY_ID, heads=2, ffn=5),
    "full_attention_masked": FullAttentionConfig(tokens=TOKENS, ffn=5, masked=(Block.BN, Block.NN), renormalise=False),
    "mtgr": MTGRConfig(tokens=BY_ID),
    "mtgr_visible_count": MTGRConfig(tokens=TOKENS, norm=AttentionNorm.VISIBLE_COUNT, group_norm=False),
    "onetrans": OneTransConfig(tokens=BY_ID, ffn=5, span=3),
    "onetrans_din": OneTransConfig(tokens=BY_ID, ffn=5, pyramid=False, retrieved=Retrieved.DIN),
    "onetrans_full": OneTransConfig(tokens=BY_ID, ffn=5, span=4, top=2, retrieved=Retrieved.FULL),
    "onetrans_shared": OneTransConfig(tokens=TOKENS, ffn=5, span=3, mixed=False),
    "token_mlp": TokenMLPConfig(tokens=TOKENS),
    "token_mlp_retrieval": TokenMLPConfig(
        tokens=TokenSettings(
            width=6,
            recent="liked",
            retrieval=RetrievalSettings(channel="all", most=3, by=Search.ID, feature="item"),
        )
    ),
    "token_dcn_v2": TokenDCNv2Config(tokens=TOKENS, rank=3),
    "autoint": AutoIntConfig(tokens=TOKENS),
    "rankmixer": RankMixerConfig(tokens=TOKENS, ffn=5),
    "hiformer": HiFormerConfig(tokens=TOKENS, heads=2, key_width=3, value_width=4, ffn=5),
    "hiformer_composite_task_token": HiFormerConfig(
        tokens=TOKENS, heads=2, key_width=3, value_width=4, ffn=5, composite=True, task_token=True
    ),
    "sim_hard": SIMConfig(tokens=BY_GENRE, heads=3),
    "sim_soft": SIMConfig(tokens=BY_ID),
    "twin": TWINConfig(tokens=TOKENS, channel="liked", most=1, heads=3),
    "longer": LongerConfig(tokens=TOKENS, merge=2, newest=1, ffn=5),
    "bst": BSTConfig(tokens=BY_GENRE, ffn=5),
    "mlp": MLPConfig(),
    "mlp_counts": MLPConfig(use_counts=True),
    "dcn_v2": DCNv2Config(cross_layers=2),
    "dcn_v2_stacked": DCNv2Config(cross_layers=1, rank=3, structure=Structure.STACKED),
    "din": DINConfig(),
    "hstu": HSTUConfig(width=8, heads=2, head_width=3, window=4, layers=2),
    "hstu_deep": HSTUConfig(width=6, heads=1, head_width=4, window=50, layers=3, norm=AttentionNorm.VISIBLE_COUNT),
    "grab": GRABConfig(width=8, heads=2, head_width=3, ffn=10, span=5, channels={"all": Behaviours(window=4)}),
    "grab_channels": GRABConfig(
        width=8,
        heads=2,
        head_width=3,
        ffn=6,
        span=50,
        channels={
            "all": Behaviours(window=40),
            "few": Behaviours(actions=(2, 3), window=3),
            "young": Behaviours(window=50, seconds=40),
        },
        mlp=MLPSettings(hidden=(20,)),
    ),
    "grab_joint_latent_deep": GRABConfig(
        width=6,
        layers=3,
        heads=1,
        head_width=4,
        ffn=8,
        latent=3,
        span=50,
        mix=MixGate.JOINT,
        action=ActionRole.BIAS,
        channels={"liked": Behaviours(actions=(2,), window=2), "all": Behaviours(window=50)},
    ),
    "grab_action_in_token": GRABConfig(
        width=6,
        layers=1,
        heads=1,
        head_width=4,
        ffn=8,
        span=3,
        action=ActionRole.TOKEN,
        use_time=False,
        channels={"all": Behaviours(window=3)},
    ),
    "grab_partial_only": GRABConfig(
        width=8,
        heads=2,
        head_width=3,
        ffn=6,
        span=6,
        views=Views.PARTIAL,
        channels={"all": Behaviours(window=5), "few": Behaviours(actions=(1, 2), window=3)},
    ),
    "grab_full_only": GRABConfig(
        width=8, heads=2, head_width=3, ffn=6, span=5, views=Views.FULL, channels={"all": Behaviours(window=5)}
    ),
    "grab_alike": GRABConfig(
        width=8,
        heads=2,
        head_width=3,
        ffn=6,
        span=6,
        latent=4,
        shared_tokenizer=True,
        start_alike=True,
        channels={"all": Behaviours(window=5), "few": Behaviours(actions=(1, 2), window=3)},
    ),
    "grab_full_only_bare": GRABConfig(
        width=8,
        heads=1,
        head_width=4,
        ffn=6,
        span=50,
        views=Views.FULL,
        action=ActionRole.BIAS,
        context=ContextSettings(use_request=False, use_counters=False, use_time=False),
        channels={"all": Behaviours(window=50)},
    ),
    "grab_no_action_no_order": GRABConfig(
        width=6,
        heads=1,
        head_width=4,
        ffn=8,
        span=4,
        action=ActionRole.NEITHER,
        use_position=False,
        mix=MixGate.NONE,
        channels={"all": Behaviours(window=4), "young": Behaviours(window=4, seconds=60)},
    ),
    **PROFILE_TOKENS,
    "est": ESTConfig(tokens=_tokens(RetrievalSettings(channel="liked", most=1)), neighbours=2),
    "est_by_id": ESTConfig(
        tokens=_tokens(RetrievalSettings(channel="all", most=2, by=Search.ID, feature="item")), heads=2
    ),
    "est_no_content": ESTConfig(tokens=TokenSettings(width=6, recent="all"), csa=False, layers=1),
    "packed_est": PackedESTConfig(
        tokens=_tokens(RetrievalSettings(channel="lifelong", most=1)), window=5, lifelong=50, neighbours=2
    ),
    "packed_est_by_id": PackedESTConfig(
        tokens=_tokens(RetrievalSettings(channel="lifelong", most=2, by=Search.ID, feature="item")), window=50, layers=1
    ),
    "packed_est_no_content": PackedESTConfig(tokens=TokenSettings(width=6, recent="all"), csa=False, window=3),
    "hstu_one_layer": HSTUConfig(width=6, heads=2, head_width=2, window=1, layers=1, use_age=False, use_order=False),
}
Change = Callable[[Event, Impression, Log, random.Random], list[Event]]


def _flip(event: Event, impression: Impression, log: Log, rng: random.Random) -> list[Event]:
    return [replace(event, action=(event.action + 1) % NUM_ACTIONS, dwell=-event.dwell)]


def _replace_item(event: Event, impression: Impression, log: Log, rng: random.Random) -> list[Event]:
    return [replace(event, item=(event.item + 7) % NUM_ITEMS, slot=(event.slot + 1) % 3)]


def _move(event: Event, impression: Impression, log: Log, rng: random.Random) -> list[Event]:
    """Another time, still hidden; an own-user event may land exactly at the request's instant."""
    if event.user != impression.user:
        return [replace(event, time=rng.randrange(0, 200))]
    return [replace(event, time=impression.request_time - log.delay + rng.choice([0, 1, 50]))]


def _delete(event: Event, impression: Impression, log: Log, rng: random.Random) -> list[Event]:
    return []


def _insert(event: Event, impression: Impression, log: Log, rng: random.Random) -> list[Event]:
    key = 1000 + event.key
    return [event, *_move(replace(event, key=key, item=rng.randrange(NUM_ITEMS)), impression, log, rng)]


SAME_SHAPE: dict[str, Change] = {"flip": _flip, "replace_item": _replace_item}
CHANGES: dict[str, Change] = {**SAME_SHAPE, "move": _move, "delete": _delete, "insert": _insert}


def _groups(log: Log, impression: Impression) -> dict[str, set[int]]:
    """Keys of the hidden events, by the reason why they are hidden."""
    groups: dict[str, set[int]] = {
        name: set() for name in ("own", "same_request", "same_instant", "late", "later", "other_user")
    }
    for event in log.events:
        if not log.hidden(event, impression):
            continue
        if event.key == impression.key:
            reason = "own"
        elif event.user != impression.user:
            reason = "other_user"
        elif event.request == impression.request:
            reason = "same_request"
        elif event.time + log.delay == impression.request_time:
            reason = "same_instant"
        else:
            reason = "late" if event.time < impression.request_time else "later"
        groups[reason].add(event.key)
    return groups


def _changed(log: Log, impression: Impression, keys: set[int], change: Change, rng: random.Random) -> Log:
    events: list[Event] = []
    for event in log.events:
        events += change(event, impression, log, rng) if event.key in keys else [event]
    return replace(log, events=tuple(events))


def _logs() -> Iterator[Log]:
    yield random_log(seed=3)
    yield random_log(seed=4, delay=4)


def test_logs_hold_every_kind_of_hidden_event() -> None:
    seen: dict[str, int] = {}
    for log in _logs():
        for impression in log.impressions:
            for name, keys in _groups(log, impression).items():
                seen[name] = seen.get(name, 0) + len(keys)
    assert all(seen.values()), seen
    assert set(seen) == {"own", "same_request", "same_instant", "late", "later", "other_user"}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", CHANGES)
def test_hidden_events_do_not_matter(name: str, kind: str) -> None:
    scorer = Scorer(CASES[name])
    rng = random.Random(0)
    for log in _logs():
        base = scorer.score(log)
        for index, impression in enumerate(log.impressions):
            groups = _groups(log, impression)
            everything = set().union(*groups.values())
            for keys in [everything, *groups.values()] if index % 4 == 0 else [everything]:
                if not keys:
                    continue
                score = scorer.score(_changed(log, impression, keys, CHANGES[kind], rng))[impression.key]
                if kind in SAME_SHAPE and keys != everything:
                    assert score == pytest.approx(base[impression.key], rel=0, abs=1e-12)
                assert score == pytest.approx(base[impression.key], rel=0, abs=1e-12), (impression, keys)


@pytest.mark.parametrize("name", CASES)
def test_flipping_own_action_is_equal_to_the_bit(name: str) -> None:
    """The label is the action's shadow: neither may reach the logit of its own impression, not even by a rounding.

    A channel that takes events by their action has one more or one less after the flip: its matrix products then have
    other shapes, in which some processors round otherwise. There the label alone is held to the bit.
    """
    config = CASES[name]
    scorer = Scorer(config)
    reshapes = isinstance(config, GRABConfig) and any(c.actions is not None for c in config.channels.values())
    for log in _logs():
        base = scorer.score(log)
        labelled = replace(log, impressions=tuple(replace(i, label=1 - i.label) for i in log.impressions))
        assert scorer.score(labelled) == base
        for impression in log.impressions:
            flipped = _changed(labelled, impression, {impression.key}, _flip, random.Random(0))
            got, kept = scorer.score(flipped)[impression.key], base[impression.key]
            assert got == (pytest.approx(kept, rel=0, abs=1e-12) if reshapes else kept)


@pytest.mark.parametrize("name", CASES)
def test_gradient_to_hidden_events_is_zero(name: str) -> None:
    scorer = Scorer(CASES[name])
    for log in _logs():
        batch = scorer.batch(log, separate=True)
        embedded = look_up(batch)
        leaves = [*embedded.items.values(), *embedded.events.values(), batch.events.numbers["dwell"]]
        for leaf in leaves:
            leaf.requires_grad_()
        logits = scorer(embedded, batch)
        order = {key: row for row, key in enumerate(_event_keys(log, batch.num_events, scorer))}
        for row, impression in enumerate(log.impressions):
            grads = torch.autograd.grad(logits[row], leaves, retain_graph=True, allow_unused=False)
            for event in log.events:
                if event.key not in order:
                    continue
                moved = any(bool(grad[order[event.key]].any()) for grad in grads)
                if log.hidden(event, impression):
                    assert not moved, (impression, event)
            newest = [e for e in log.stream(impression.user) if not log.hidden(e, impression)][-1:]
            for event in newest:
                assert any(bool(grad[order[event.key]].any()) for grad in grads), (impression, event)


def _event_keys(log: Log, expected: int, scorer: Scorer) -> list[int]:
    """Keys in the order of the packed events, recovered from what makes each unique: user, time, item and dwell."""
    batch = scorer.batch(log)
    by_dwell = {e.dwell: e.key for e in log.events}
    keys = [by_dwell[d] for d in batch.events.numbers["dwell"].tolist()]
    assert len(keys) == expected
    return keys


@pytest.mark.parametrize("name", CASES)
def test_visible_events_do_matter(name: str) -> None:
    scorer = Scorer(CASES[name])
    log = random_log(seed=5)
    base = scorer.score(log)
    for impression in log.impressions:
        newest = [e for e in log.stream(impression.user) if not log.hidden(e, impression)][-1:]
        for event in newest:
            for change in SAME_SHAPE.values():
                changed = _changed(log, impression, {event.key}, change, random.Random(0))
                assert abs(scorer.score(changed)[impression.key] - base[impression.key]) > 1e-7, (impression, event)


@pytest.mark.parametrize("name", CASES)
def test_alone_equals_together(name: str) -> None:
    """An impression scored alone on what was known at its request: the neighbours in the batch must not show."""
    scorer = Scorer(CASES[name])
    for log in _logs():
        base = scorer.score(log)
        for impression in log.impressions:
            alone = scorer.score(log.only(impression))
            assert alone[impression.key] == pytest.approx(base[impression.key], rel=0, abs=1e-12)


def test_alone_equals_together_with_items_only() -> None:
    """Without event features events share vectors by (item, action), which is another path."""
    scorer = Scorer(CASES["din"], ITEMS_ONLY)
    for log in _logs():
        base = scorer.score(log)
        for impression in log.impressions:
            assert scorer.score(log.only(impression))[impression.key] == pytest.approx(base[impression.key], abs=1e-12)
