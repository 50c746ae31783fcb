"""EST against its formula; what candidates share; what a feature more changes; its arithmetic."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ctr_rec.batch.batch import Batch
from ctr_rec.layers.layout import size
from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.layers.retrieval import RetrievalSettings, Search
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.est.config import Norm
from ctr_rec.models.est.tower import ESTConfig, ESTTower
from ctr_rec.models.tower import Filling
from ctr_rec.schema.log import Kind, Side
from tests.models.edges import check_edges
from tests.models.est.formula import formula
from tests.models.streams import CHANNELS, CONTENT, Log, Scorer, feature, look_up, make_batch, random_log

SEARCH = RetrievalSettings(channel="liked", most=1)
TOKENS = TokenSettings(width=6, recent="all", content="content", retrieval=SEARCH, simtier=True)
BY_GENRE = SEARCH.model_copy(update={"by": Search.CATEGORY, "feature": "genres"})
SMALL = ESTConfig(tokens=TOKENS, neighbours=2, mlp=MLPSettings(hidden=(5, 3), dropout=0.0))
CASES: dict[str, ESTConfig] = {
    "est": SMALL,
    "one layer, two heads": SMALL.model_copy(update={"layers": 1, "heads": 2}),
    "layer norm": SMALL.model_copy(update={"norm": Norm.LAYER, "ffn": 0.5}),
    "no content sparse attention": SMALL.model_copy(update={"csa": False}),
    "no retrieval": SMALL.model_copy(update={"tokens": TOKENS.model_copy(update={"retrieval": None})}),
    "by genre": SMALL.model_copy(update={"tokens": TOKENS.model_copy(update={"retrieval": BY_GENRE})}),
}


def _scorer(config: ESTConfig) -> tuple[Scorer, ESTTower]:
    scorer = Scorer(config, CONTENT)
    tower = scorer.tower
    assert isinstance(tower, ESTTower)
    return scorer, tower


@pytest.mark.parametrize("name", CASES)
def test_equals_the_formula_in_value_and_every_gradient(name: str) -> None:
    scorer, tower = _scorer(CASES[name])
    batch = scorer.batch(random_log(0))
    lengths = {int(n) for n in batch.histories["all"].lengths()}
    assert {0, 1, 3} <= lengths, "no behaviour, one, and several"
    embedded = look_up(batch, CONTENT)
    expected = formula(tower, tower.tokens(embedded, batch), batch)
    got = tower(embedded, batch)
    # Cosines of CSA are exact to 2^-25, and its weights are float32.
    exact = 1e-7 if CASES[name].csa else 1e-12
    torch.testing.assert_close(got, expected, rtol=0, atol=exact)
    weights = torch.randn_like(got)
    wanted = dict(tower.named_parameters())
    ours = torch.autograd.grad((got * weights).sum(), list(wanted.values()))
    theirs = torch.autograd.grad((expected * weights).sum(), list(wanted.values()), allow_unused=True)
    for where, a, b in zip(wanted, ours, theirs, strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, rtol=0, atol=10 * exact, msg=where)


@pytest.mark.parametrize("name", ["est", "no retrieval"])
def test_edges(name: str) -> None:
    check_edges(CASES[name])


@pytest.mark.parametrize("switch", ["use_profile", "use_request", "use_counters", "use_time"])
def test_each_switch_of_the_context_removes_its_input(switch: str) -> None:
    for on in (True, False):
        context = TOKENS.context.model_copy(update={switch: on})
        config = SMALL.model_copy(update={"tokens": TOKENS.model_copy(update={"context": context})})
        names = _scorer(config)[1].names
        prefix = {"use_profile": "user/", "use_request": "request/", "use_counters": "counter/", "use_time": "time/"}
        assert any(name.startswith(prefix[switch]) for name in names) is on


def _request(log: Log, items: range) -> Log:
    """One request of the impression with the longest history, with these candidates."""
    one = max(log.impressions, key=lambda i: sum(not log.hidden(e, i) for e in log.events))
    return replace(log, impressions=tuple(replace(one, key=500 + item, item=item) for item in items))


@pytest.mark.parametrize("name", CASES)
def test_candidates_of_a_request_score_and_learn_as_separate_impressions(name: str) -> None:
    scorer, _ = _scorer(CASES[name])
    request = _request(random_log(3), range(1, 9))
    parts = [replace(request, impressions=(i,)) for i in request.impressions]

    def run(log: Log) -> Tensor:
        batch = scorer.batch(log)
        return scorer(look_up(batch, CONTENT), batch)

    together, apart = run(request), torch.cat([run(part) for part in parts])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-12)
    assert len(together.detach().unique()) >= 5
    parameters = list(scorer.parameters())
    for a, b in zip(
        torch.autograd.grad(together.square().sum(), parameters),
        torch.autograd.grad(apart.square().sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_recent_behaviours_are_the_same_in_every_layer_whatever_the_candidate() -> None:
    scorer, tower = _scorer(SMALL)
    seen: list[list[Tensor]] = []
    for item in (1, 9):
        seen.append([])
        hooks = [layer.register_forward_hook(lambda _m, _i, out: seen[-1].append(out[1][0])) for layer in tower.layers]
        scorer.score(_request(random_log(3), range(item, item + 1)))
        for hook in hooks:
            hook.remove()
    assert len(seen[0]) == tower.config.layers == 2
    for a, b in zip(*seen, strict=True):
        assert torch.equal(a, b)
        assert a.shape[0] == 3


def test_csa_reads_content_and_no_parameter_of_its_own() -> None:
    scorer, tower = _scorer(SMALL)
    without = _scorer(CASES["no content sparse attention"])[1]
    assert {n for n, _ in tower.named_parameters()} == {n for n, _ in without.named_parameters()}
    simple = SMALL.model_copy(update={"tokens": TokenSettings(width=6, recent="all", content="content")})
    for csa in (True, False):
        scorer, _ = _scorer(simple.model_copy(update={"csa": csa}))
        batch = scorer.batch(random_log(0))
        base = scorer(look_up(batch, CONTENT), batch)
        vectors = {"content": batch.items.vectors["content"].flip(0)}
        other = replace(batch, items=replace(batch.items, vectors=vectors))
        moved = (scorer(look_up(batch, CONTENT), other) - base).abs().max() > 1e-9
        assert bool(moved) is csa


def test_use_action_switch() -> None:
    behaviour = TOKENS.behaviour.model_copy(update={"use_action": False})
    config = SMALL.model_copy(update={"tokens": TOKENS.model_copy(update={"behaviour": behaviour})})
    for chosen, on in ((SMALL, True), (config, False)):
        scorer, _ = _scorer(chosen)
        batch = scorer.batch(random_log(6))
        other = replace(batch, event_action=(batch.event_action + 1) % 4)
        moved = (scorer(look_up(batch), other) - scorer(look_up(batch), batch)).abs().max() > 1e-9
        assert bool(moved) is on


def test_a_feature_more_changes_no_other_parameter() -> None:
    """It is a token more: new matrices of its own, and columns of the head; all others keep their shape and place."""
    tower = SMALL.build(CONTENT, tuple(CHANNELS))
    more = CONTENT.model_copy(update={"user": (*CONTENT.user, feature("income", Kind.NUMBER, Side.USER))})
    wider = SMALL.build(more, tuple(CHANNELS))
    old, new = dict(tower.named_parameters()), dict(wider.named_parameters())
    assert {n.rsplit(".", 2)[0] for n in new.keys() - old.keys()} == {"tokens.features.mlps.user/income"}
    changed = {n for n in old if old[n].shape != new[n].shape}
    assert changed <= tower.axes().keys()
    for where in changed:
        axes, wider_axes = tower.axes()[where], wider.axes()[where]
        for axis, (before, after) in enumerate(zip(axes, wider_axes, strict=True)):
            if before is None:
                continue
            assert after is not None
            assert size(before) == old[where].shape[axis]
            assert size(after) == new[where].shape[axis]
            assert [part for part in after if part in before] == list(before)
            assert {name for name, _ in after} - {name for name, _ in before} == {"user/income"}


def _lengths(batch: Batch, tower: ESTTower) -> list[list[int]]:
    """Of each impression's sequences."""
    of_sets = []
    for of in tower.tokens.sequences(batch).sequences.values():
        length_S = of.offsets_S1.diff()
        of_sets.append((length_S if of.segment_N is None else length_S[of.segment_N]).tolist())
    return [list(row) for row in zip(*of_sets, strict=True)]


def test_flops_by_hand() -> None:
    config = CASES["one layer, two heads"]
    tower = config.build(CONTENT, tuple(CHANNELS))
    batch = make_batch(random_log(1), Filling.POINTWISE, CONTENT)
    n, tokens, d, f = batch.num_impressions, len(tower.names), 6, 12
    sequences = tower.tokens.sequences(batch).sequences
    rows = sum(len(of.position_P) for of in sequences.values())
    pairs = sum(sum(row) for row in _lengths(batch, tower))
    assert rows < pairs, "some impressions share a sequence"
    lca = 2 * (2 * n * tokens * d * d + rows * d * 2 * d + 2 * pairs * tokens * d)
    ffn = 2 * 3 * d * f * (n * tokens + rows)
    lengths = [b - a for of in sequences.values() for a, b in pairwise(of.offsets_S1.tolist())]
    csa = 2 * d * sum(length * min(2, length) for length in lengths)
    head = 2 * n * ((tokens + 1) * d * 5 + 5 * 3)
    assert tower.flops(batch) == tower.tokens.flops(batch) + lca + ffn + csa + head
    assert tower.content_flops(batch)["csa"] == 2 * 3 * sum(length**2 for length in lengths)


def test_a_request_pays_for_its_user_once() -> None:
    tower = SMALL.build(CONTENT, tuple(CHANNELS))
    one, eight = (make_batch(_request(random_log(3), range(1, k)), Filling.POINTWISE, CONTENT) for k in (2, 9))
    shared = tower.flops(eight)
    assert shared < 8 * tower.flops(one)


def test_ages_switch_needs_no_clock() -> None:
    context = TOKENS.context.model_copy(update={"use_time": False})
    tokens = TOKENS.model_copy(update={"context": context})
    scorer, _ = _scorer(SMALL.model_copy(update={"tokens": tokens}))
    batch = scorer.batch(random_log(6))
    base = scorer(look_up(batch), batch)
    other = replace(batch, event_time=batch.event_time - 9999)
    assert (scorer(look_up(batch), other) - base).abs().max() > 1e-9, "retrieved behaviours know their age"
