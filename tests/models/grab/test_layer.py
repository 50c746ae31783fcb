"""A layer against the paper's formulas, token by token; the mixing of target tokens against a double loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ctr_rec.layers.packed import by_visible_end
from ctr_rec.models.grab.channels import Channel, Sight
from ctr_rec.models.grab.config import ActionRole, Behaviours, MixGate
from ctr_rec.models.grab.layer import GRABLayer, TargetMix
from ctr_rec.models.grab.tower import GRABConfig
from ctr_rec.models.tower import Filling
from tests.models.streams import NUM_ACTIONS, make_batch, random_log


def _attend(layer: GRABLayer, x: Tensor, keys: list[Tensor], actions: list[int], rows: list[tuple[int, int]]) -> Tensor:
    """softmax_j( q . (k_j + Pos + Action + Time) / sqrt(E) ) v_j for one token, head by head; rows: position, time."""
    heads, width = layer.heads, layer.query.out_features // layer.heads
    q = layer.query(x).view(heads, width)
    out = torch.zeros(heads, width, dtype=x.dtype)
    for h in range(heads):
        logits, values = [], []
        for key, action, (position, bucket) in zip(keys, actions, rows, strict=True):
            compressed = key if layer.compress is None else layer.compress(key)
            k, v = layer.key_value(compressed).view(2, heads, width)[:, h]
            relative = k
            for codes, row in ((layer.position_PE, position), (layer.time_BE, bucket), (layer.action_AE, action)):
                relative = relative if codes is None else relative + codes[row]
            logits.append(q[h] @ relative / width**0.5)
            values.append(v)
        if logits:
            out[h] = torch.stack(logits).softmax(0) @ torch.stack(values)
    y = layer.attention_norm(x + layer.out(out.flatten()))
    return layer.ffn_norm(y + layer.ffn(y))


def _bucket(seconds: int, ages: int) -> int:
    return min((max(seconds, 0) + 1).bit_length() - 1, ages - 1)


CASES = {
    "plain": GRABConfig(width=6, heads=2, head_width=3, ffn=5, ages=6, channels={"c": Behaviours(window=4)}),
    "subset": GRABConfig(
        width=6, heads=2, head_width=3, ffn=5, latent=4, channels={"c": Behaviours(actions=(0, 2), window=3)}
    ),
    "no_bias": GRABConfig(
        width=6,
        heads=1,
        head_width=3,
        ffn=5,
        action=ActionRole.TOKEN,
        use_position=False,
        use_time=False,
        channels={"c": Behaviours(window=3)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_layer_is_the_formula(name: str) -> None:
    config = CASES[name]
    (behaviours,) = config.channels.values()
    log = random_log(seed=8, delay=2)
    batch = make_batch(log, Filling.PACKED)
    order = by_visible_end(batch)
    sight = Sight(behaviours, config, 1)
    channel = sight.channel(batch)
    candidates = sight.candidates(channel.event_C, batch, order)
    layer = GRABLayer(config, behaviours, NUM_ACTIONS).double().eval()
    _spread_codes(layer)
    x_CD = torch.randn(channel.action_C.shape[0], 6, dtype=torch.float64)
    x_ND = torch.randn(batch.num_impressions, 6, dtype=torch.float64)
    k, v, got_CD = layer.encode(x_CD, channel.action_C, channel.seen)
    got_ND = layer.score(x_ND, k, v, candidates)
    known_at = batch.event_known_at if channel.event_C is None else batch.event_known_at[channel.event_C]
    assert channel.seen is not None
    for c in range(len(x_CD)):
        args = _pairs(channel, channel.seen.lo[c], channel.seen.hi[c], int(known_at[c]), known_at, config)
        torch.testing.assert_close(got_CD[c], _attend(layer, x_CD[c], [x_CD[j] for j in args[0]], *args[1:]))
    for n in range(len(x_ND)):
        time = int(batch.impression_time[order[n]])
        seen, actions, rows = _pairs(channel, candidates.lo[n], candidates.hi[n], time, known_at, config)
        keys = [*(x_CD[j] for j in seen), x_ND[n]]
        want = _attend(layer, x_ND[n], keys, [*actions, NUM_ACTIONS], [*rows, (0, 0)])
        torch.testing.assert_close(got_ND[n], want)
    last_k, last_v, same_CD = layer.encode(x_CD, channel.action_C, None)
    assert same_CD is x_CD, "nobody reads the events' tokens of the last layer"
    assert torch.equal(last_k, k)
    assert torch.equal(last_v, v)


def _spread_codes(layer: GRABLayer) -> None:
    """Codes as large as keys: at their small start a wrong row would hardly show."""
    for codes in (layer.position_PE, layer.time_BE, layer.action_AE):
        if codes is not None:
            torch.nn.init.normal_(codes)


def _pairs(
    channel: Channel, lo: Tensor, hi: Tensor, now: int, known_at: Tensor, config: GRABConfig
) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    seen = list(range(int(lo), int(hi)))
    actions = [int(channel.action_C[j]) for j in seen]
    return seen, actions, [(int(hi) - j, _bucket(now - int(known_at[j]), config.ages)) for j in seen]


@pytest.mark.parametrize("name", CASES)
def test_profile_tokens_are_keys_more_for_impressions_and_see_themselves_alone(name: str) -> None:
    config = CASES[name]
    (behaviours,) = config.channels.values()
    batch = make_batch(random_log(seed=8, delay=2), Filling.PACKED)
    order = by_visible_end(batch)
    sight = Sight(behaviours, config, 1)
    channel = sight.channel(batch)
    candidates = sight.candidates(channel.event_C, batch, order)
    layer = GRABLayer(config, behaviours, NUM_ACTIONS).double().eval()
    _spread_codes(layer)
    x_CD = torch.randn(channel.action_C.shape[0], 6, dtype=torch.float64)
    x_ND = torch.randn(batch.num_impressions, 6, dtype=torch.float64)
    x_UPD = torch.randn(batch.num_users, 3, 6, dtype=torch.float64)
    user = batch.impression_user[order]
    profile, next_UPD = layer.profile_keys(x_UPD, user, last=False)
    k, v, _ = layer.encode(x_CD, channel.action_C, channel.seen)
    got_ND = layer.score(x_ND, k, v, candidates, profile)
    known_at = batch.event_known_at if channel.event_C is None else batch.event_known_at[channel.event_C]
    for n in range(len(x_ND)):
        time = int(batch.impression_time[order[n]])
        lo, hi = candidates.lo[n], candidates.hi[n]
        seen, actions, rows = _pairs(channel, lo, hi, time, known_at, config)
        keys = [*(x_CD[j] for j in seen), x_ND[n], *x_UPD[user[n]]]
        want = _attend(layer, x_ND[n], keys, [*actions, *[NUM_ACTIONS] * 4], [*rows, *[(0, 0)] * 4])
        torch.testing.assert_close(got_ND[n], want)
    for token, next_token in zip(x_UPD.flatten(0, 1), next_UPD.flatten(0, 1), strict=True):
        torch.testing.assert_close(next_token, _attend(layer, token, [token], [NUM_ACTIONS], [(0, 0)]))
    assert layer.profile_keys(x_UPD, user, last=True)[1] is x_UPD, "nobody reads them after the last layer"


@pytest.mark.parametrize("gate", [MixGate.OWN, MixGate.JOINT])
def test_mixing_is_the_papers_sum_over_other_channels(gate: MixGate) -> None:
    mix = TargetMix(4, 3, gate).double()
    h = [torch.randn(5, 4, dtype=torch.float64) for _ in range(3)]
    got = mix(h)
    for c in range(3):
        want = h[c]
        for i in range(3):
            if i != c:
                read = torch.cat(h, dim=-1) if gate is MixGate.JOINT else h[i]
                want = want + torch.sigmoid(mix.gates[i](read)) * h[i]
        torch.testing.assert_close(got[c], want)


def test_gates_begin_nearly_closed() -> None:
    mix = TargetMix(4, 2, MixGate.OWN)
    zero = [torch.zeros(1, 4), torch.zeros(1, 4)]
    gates = [torch.sigmoid(gate(h)) for gate, h in zip(mix.gates, zero, strict=True)]
    assert all(torch.allclose(g, torch.tensor(0.1192), atol=1e-4) for g in gates)


@pytest.mark.parametrize("name", CASES)
def test_alike_at_the_start_a_query_is_its_tokens_key(name: str) -> None:
    config = CASES[name]
    (behaviours,) = config.channels.values()
    x = torch.randn(7, 6)
    for alike in (True, False):
        layer = GRABLayer(config.model_copy(update={"start_alike": alike}), behaviours, NUM_ACTIONS)
        compressed = x if layer.compress is None else layer.compress(x)
        key = layer.key_value(compressed).chunk(2, dim=-1)[0]
        assert torch.allclose(layer.query(x), key, atol=1e-6) == alike


def test_action_codes_begin_with_the_deviation_asked_for() -> None:
    for std in (0.02, 0.5):
        config = GRABConfig(width=6, head_width=64, action=ActionRole.BIAS, action_std=std)
        layer = GRABLayer(config, Behaviours(), num_actions=40)
        assert layer.action_AE is not None
        assert layer.position_PE is not None
        assert layer.action_AE.std().item() == pytest.approx(std, rel=0.1)
        assert layer.position_PE.std().item() == pytest.approx(0.02, rel=0.1), "the other codes stay small"
