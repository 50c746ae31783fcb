"""Profile tokens: one per feature and user, read by impressions of that user alone, and refused without features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ctr_rec.checkpoint.grow import GrowPlanner
from ctr_rec.checkpoint.manifest import Manifest, read_manifest
from ctr_rec.checkpoint.store import load, save
from ctr_rec.errors import CheckpointError, ConfigError
from ctr_rec.layers.context import ContextSettings
from ctr_rec.models.grab.config import Behaviours
from ctr_rec.models.grab.profile import ProfileTokens
from ctr_rec.models.grab.tower import GRABConfig, GRABTower
from ctr_rec.models.tower import Filling, TowerConfig
from ctr_rec.sharding.group import open_group
from tests.checkpoint.test_grow import FEWER, ranker, small_batch, with_adamw
from tests.models.edges import check_edges
from tests.models.streams import ITEMS_ONLY, SPEC, look_up, make_batch, random_log
from tests.models.test_no_leak import PROFILE_TOKENS

CONFIG = GRABConfig(
    width=6,
    heads=2,
    head_width=3,
    ffn=5,
    span=9,
    profile_tokens=True,
    context=ContextSettings(use_profile=False),
    channels={"all": Behaviours(window=9), "liked": Behaviours(actions=(2, 3), window=4)},
)


def test_a_token_is_its_features_map_and_the_shared_gate() -> None:
    batch = make_batch(random_log(seed=1), Filling.PACKED)
    module = ProfileTokens(SPEC, CONFIG).double()
    embedded = look_up(batch)
    got = module(embedded, batch)
    assert got.shape == (batch.num_users, 2, 6)
    fields = {"user": embedded.users["user"], "age": batch.users.numbers["age"][:, None]}
    for number, (name, x) in enumerate(fields.items()):
        torch.testing.assert_close(got[:, number], module.gated(module.first[name](x)))


def test_a_users_profile_reaches_that_users_impressions_alone() -> None:
    tower = GRABTower(SPEC, CONFIG).double().eval()
    batch = make_batch(random_log(seed=2), Filling.PACKED)
    embedded = look_up(batch)
    before = tower(embedded, batch)
    for name in ("user", "age"):
        for user in range(batch.num_users - 1):
            of_user = torch.arange(batch.num_users) == user
            numbers = {"age": batch.users.numbers["age"] + of_user * (name == "age")}
            users = {"user": embedded.users["user"] + (of_user * (name == "user"))[:, None]}
            moved = tower(replace(embedded, users=users), replace(batch, users=replace(batch.users, numbers=numbers)))
            assert torch.equal((moved != before).any(-1), batch.impression_user == user), (name, user)


def test_the_profile_can_be_token_and_field_or_either() -> None:
    batch = make_batch(random_log(seed=2), Filling.PACKED)
    embedded = look_up(batch)
    users = {"user": embedded.users["user"] + 1}
    for tokens in (True, False):
        for field in (True, False):
            context = ContextSettings(use_profile=field)
            tower = GRABTower(SPEC, CONFIG.model_copy(update={"profile_tokens": tokens, "context": context}))
            tower = tower.double().eval()
            moved = tower(replace(embedded, users=users), batch) != tower(embedded, batch)
            assert bool(moved.any()) == (tokens or field)


def test_edges() -> None:
    check_edges(CONFIG)


def test_a_log_without_user_features_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tower\.profile_tokens=True: expected at least one user feature, got none"):
        GRABTower(ITEMS_ONLY, CONFIG)


def test_flops_by_hand() -> None:
    batch = make_batch(random_log(seed=1), Filling.PACKED)
    with_tokens, without = (
        GRABTower(SPEC, CONFIG.model_copy(update={"profile_tokens": on})).flops(batch) for on in (True, False)
    )
    u, n, inner, layers, channels = batch.num_users, batch.num_impressions, 6, 2, 2
    tokens = u * (2 * (3 + 1) * 12 + 2 * 2 * 6 * 6)
    key_value, passage = 2 * 6 * 2 * inner, 2 * (inner * 6 + 2 * 6 * 5)
    stack = 2 * (u * (layers * key_value + (layers - 1) * passage) + n * layers * 2 * 2 * inner)
    assert with_tokens - without == tokens + channels * stack


@pytest.mark.parametrize("config", PROFILE_TOKENS.values(), ids=PROFILE_TOKENS)
def test_profile_tokens_grow_by_other_inputs_alone(config: TowerConfig, tmp_path: Path) -> None:
    """One key more changes every softmax, so a new profile feature is refused and a new item feature is not."""
    new = ranker(config, SPEC, 2)
    same_profile = {"user": SPEC.user, "tables": tuple(t for t in SPEC.tables if t.name in ("genre", "user"))}
    with open_group("cpu") as group:
        for name, fewer in {"item": FEWER.model_copy(update=same_profile), "user": FEWER}.items():
            old = ranker(config, fewer, 1)
            save(tmp_path / name, with_adamw(old, fill=False)[0], Manifest(step=1, layouts=old.axes()), {}, group)
            planner = GrowPlanner(read_manifest(tmp_path / name), new.axes())
            if name == "user":
                with pytest.raises(CheckpointError, match=r"tower\.profile\.first\.user\.\w+ is not in the checkpoint"):
                    load(tmp_path / name, with_adamw(new, fill=False)[0], group, planner=planner)
                continue
            load(tmp_path / name, with_adamw(new, fill=False)[0], group, planner=planner)
            planner.settle()
            with torch.no_grad():
                before, now = old(small_batch(config, fewer)), new(small_batch(config, SPEC))
            assert torch.allclose(before, now, atol=1e-5)
