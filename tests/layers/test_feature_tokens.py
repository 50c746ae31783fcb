"""Every raw feature becomes a token of its own, and what it is made of depends on no other."""

from __future__ import annotations

import torch
from torch import Tensor

from ctr_rec.layers.context import ContextSettings
from ctr_rec.layers.feature_tokens import FeatureMLP, FeatureTokens
from ctr_rec.models.tower import Filling
from tests.models.streams import SPEC, look_up, make_batch, random_log

BATCH = make_batch(random_log(0), Filling.POINTWISE)
EMBEDDED = look_up(BATCH)


def tokens(context: ContextSettings | None = None) -> FeatureTokens:
    torch.manual_seed(0)
    return FeatureTokens(SPEC, context or ContextSettings(), SPEC.item, 6).double()


def test_each_token_is_its_features_mlp() -> None:
    layer = tokens()
    got = layer(EMBEDDED, BATCH)
    assert got.shape == (BATCH.num_impressions, len(layer.names), 6)
    assert layer.names == (
        "candidate/item",
        "candidate/genres",
        "candidate/year",
        "request/slot",
        "counter/item_mean_count",
        "counter/item_mean_rate",
        "user/user",
        "user/age",
        "time/hour",
        "time/weekday",
        "time/gap",
    )
    assert layer.time is not None
    clock_N3D = layer.time(BATCH).unflatten(-1, (3, -1))
    item, user = BATCH.impression_item, BATCH.impression_user
    inputs: dict[str, Tensor] = {
        "candidate/item": EMBEDDED.items["item"][item],
        "candidate/genres": EMBEDDED.items["genres"][item],
        "candidate/year": BATCH.items.numbers["year"][item].unsqueeze(-1),
        "request/slot": EMBEDDED.impressions["slot"],
        "counter/item_mean_count": BATCH.impressions.numbers["item_mean_count"].unsqueeze(-1),
        "counter/item_mean_rate": BATCH.impressions.numbers["item_mean_rate"].unsqueeze(-1),
        "user/user": EMBEDDED.users["user"][user],
        "user/age": BATCH.users.numbers["age"][user].unsqueeze(-1),
        "time/hour": clock_N3D[:, 0],
        "time/weekday": clock_N3D[:, 1],
        "time/gap": clock_N3D[:, 2],
    }
    for place, name in enumerate(layer.names):
        mlp = layer.mlps[name]
        assert isinstance(mlp, FeatureMLP)
        hidden = inputs[name] @ mlp.first.weight.T + mlp.first.bias
        want = (hidden * hidden.sigmoid()) @ mlp.second.weight.T + mlp.second.bias
        torch.testing.assert_close(got[:, place], want)


def test_groups_that_are_switched_off_have_no_token() -> None:
    off = ContextSettings(use_profile=False, use_request=False, use_counters=False, use_time=False)
    layer = tokens(off)
    assert layer.names == ("candidate/item", "candidate/genres", "candidate/year")
    assert layer(EMBEDDED, BATCH).shape[1] == 3


def test_flops_count_items_and_users_once() -> None:
    layer = tokens(ContextSettings(use_request=False, use_counters=False, use_time=False))
    per_row = {w: 2 * 6 * (w + 6) for w in (4, 1, 3)}
    items, users = BATCH.item.shape[0], BATCH.num_users
    assert layer.flops(BATCH) == items * (per_row[4] * 2 + per_row[1]) + users * (per_row[3] + per_row[1])
