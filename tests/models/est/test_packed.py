"""Packed EST against its formula, and against EST where both are one model; how far it reaches; its arithmetic."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from ctr_rec.batch.batch import Batch, Jagged
from ctr_rec.layers.behaviours import BehaviourSettings
from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.layers.retrieval import RetrievalSettings, Search
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.est.config import Norm
from ctr_rec.models.est.packed import PackedESTConfig, PackedESTTower
from ctr_rec.models.est.tower import ESTConfig
from ctr_rec.models.tower import Filling
from tests.models.edges import check_edges
from tests.models.est.compares import replayed
from tests.models.est.formula import packed_formula
from tests.models.flops import assert_flops_match, build
from tests.models.streams import CONTENT, Log, Scorer, look_up, make_batch, random_log

SEARCH = RetrievalSettings(channel="lifelong", most=2)
TOKENS = TokenSettings(width=6, recent="all", content="content", retrieval=SEARCH, simtier=True)
BY_GENRE = SEARCH.model_copy(update={"by": Search.CATEGORY, "feature": "genres"})
SMALL = PackedESTConfig(tokens=TOKENS, window=4, lifelong=7, neighbours=2, mlp=MLPSettings(hidden=(5, 3), dropout=0.0))
CASES: dict[str, PackedESTConfig] = {
    "packed": SMALL,
    "one layer, two heads": SMALL.model_copy(update={"layers": 1, "heads": 2}),
    "three layers": SMALL.model_copy(update={"layers": 3, "neighbours": 3}),
    "layer norm": SMALL.model_copy(update={"norm": Norm.LAYER, "ffn": 0.5}),
    "no content sparse attention": SMALL.model_copy(update={"csa": False}),
    "no retrieval": SMALL.model_copy(update={"tokens": TOKENS.model_copy(update={"retrieval": None})}),
    "by genre": SMALL.model_copy(update={"tokens": TOKENS.model_copy(update={"retrieval": BY_GENRE})}),
}


def _histories(log: Log, batch: Batch, last: dict[str, int]) -> dict[str, Jagged]:
    """The newest visible events of every impression, by the log's own rule."""
    row = {e.key: index for index, e in enumerate(e for user in range(log.num_users) for e in log.stream(user))}
    found = {}
    for name, most in last.items():
        seen = [[row[e.key] for e in log.stream(i.user) if not log.hidden(e, i)][-most:] for i in log.impressions]
        offsets = torch.tensor([0, *(len(rows) for rows in seen)]).cumsum(0)
        found[name] = Jagged(torch.tensor([t for rows in seen for t in rows], dtype=torch.int64), offsets)
    return found


def _grads(out: Tensor, weights: Tensor, wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    found = torch.autograd.grad((out * weights).sum(), list(wanted.values()), allow_unused=True)
    pairs = zip(wanted.items(), found, strict=True)
    return {name: torch.zeros_like(p) if grad is None else grad for (name, p), grad in pairs}


@pytest.mark.parametrize("name", CASES)
def test_equals_the_formula_in_value_and_every_gradient(name: str) -> None:
    config, log = CASES[name], random_log(0)
    scorer = Scorer(config, CONTENT)
    tower, batch = scorer.tower, scorer.batch(log)
    assert isinstance(tower, PackedESTTower)
    assert {0, 1, 4} <= {min(4, int(n)) for n in batch.history_length}, "no behaviour, one, and more than the window"
    embedded = look_up(batch, CONTENT)
    histories = _histories(log, batch, {"all": config.window, "lifelong": config.lifelong})
    expected, got = packed_formula(tower, embedded, batch, histories), tower(embedded, batch)
    exact = 1e-6 if config.csa else 1e-12  # CSA's weights are float32
    torch.testing.assert_close(got, expected, rtol=0, atol=exact)
    weights, wanted = torch.randn_like(got), dict(tower.named_parameters())
    ours, theirs = _grads(got, weights, wanted), _grads(expected, weights, wanted)
    for where, grad in ours.items():
        assert grad.any(), where
        torch.testing.assert_close(grad, theirs[where], rtol=0, atol=100 * exact, msg=where)


@pytest.mark.parametrize("retrieval", [True, False])
def test_is_est_where_both_are_one_model(retrieval: bool) -> None:
    """One layer, no CSA, neither order nor age: the same weights give the same scores and gradients."""
    tokens = TOKENS.model_copy(
        update={
            "behaviour": BehaviourSettings(use_order=False, use_age=False),
            "retrieval": SEARCH if retrieval else None,
        }
    )
    same = {"layers": 1, "csa": False, "mlp": MLPSettings(hidden=(5,), dropout=0.0)}
    channel_all = tokens.model_copy(update={"retrieval": SEARCH.model_copy(update={"channel": "all"})})
    paper = Scorer(ESTConfig(tokens=channel_all if retrieval else tokens, **same), CONTENT)
    packed = Scorer(PackedESTConfig(tokens=tokens, window=3, lifelong=3, **same), CONTENT)
    packed.load_state_dict(paper.state_dict())
    log, outs = random_log(4, delay=1), []
    for scorer in (paper, packed):
        batch = scorer.batch(log)
        outs.append(scorer(look_up(batch, CONTENT), batch))
    torch.testing.assert_close(outs[1], outs[0], rtol=0, atol=1e-12)
    weights = torch.randn_like(outs[0])
    want, got = (_grads(out, weights, dict(s.named_parameters())) for out, s in zip(outs, (paper, packed), strict=True))
    assert got.keys() == want.keys()
    for where, grad in got.items():
        torch.testing.assert_close(grad, want[where], rtol=0, atol=1e-11, msg=where)


@pytest.mark.parametrize("switch", ["use_order", "use_age"])
def test_order_and_age_reach_the_score(switch: str) -> None:
    behaviour = BehaviourSettings(**{"use_order": False, "use_age": False, switch: True})
    tokens = TOKENS.model_copy(update={"behaviour": behaviour, "retrieval": None})
    scorer = Scorer(SMALL.model_copy(update={"tokens": tokens, "layers": 1}), CONTENT)
    batch = scorer.batch(random_log(0))
    base = scorer(look_up(batch, CONTENT), batch)
    assert isinstance(scorer.tower, PackedESTTower)
    recent = scorer.tower.tokens.maker("all")
    table = recent.order_OD if switch == "use_order" else recent.age_AD
    assert table is not None
    with torch.no_grad():
        table.add_(torch.randn_like(table))
    moved = (scorer(look_up(batch, CONTENT), batch) - base).abs() > 1e-6
    assert moved.equal(batch.history_length > 0)


@pytest.mark.parametrize("name", CASES)
def test_edges(name: str) -> None:
    check_edges(CASES[name])


def _line(num_events: int) -> Log:
    """One user whose events come one after another, and an impression behind them."""
    log = random_log(1)
    one, impression = log.events[0], log.impressions[0]
    # Items with content: a multiple of 7 has none.
    items = [1 + n % 6 for n in range(num_events)]
    events = [replace(one, key=n, user=0, time=10 * n, request=n, item=item) for n, item in enumerate(items)]
    last = replace(impression, key=999, user=0, request=999, request_time=10 * num_events)
    return Log(tuple(events), (last,), 1)


@pytest.mark.parametrize("name", ["packed", "three layers", "no content sparse attention", "no retrieval"])
def test_reaches_as_far_as_it_says(name: str) -> None:
    """What lies further back than `reach` has no path to the score; in a search it is the very last event that has."""
    config, log = CASES[name], _line(30)
    (base,) = Scorer(config, CONTENT).score(log).values()

    def without(oldest: int) -> float:
        return next(iter(Scorer(config, CONTENT).score(replace(log, events=log.events[oldest:])).values()))

    assert without(30 - config.reach) == pytest.approx(base, rel=0, abs=1e-12)
    furthest = next(n for n in range(1, 31) if abs(without(30 - n) - base) <= 1e-12 and n > config.window)
    assert furthest <= config.reach
    if config.csa:
        assert furthest > config.window, "through CSA an event tells of what its reader does not see"


def test_reach_counts_layers_and_the_search() -> None:
    assert SMALL.reach == max(4 * 3, 7)
    assert CASES["no retrieval"].reach == 12
    assert SMALL.model_copy(update={"lifelong": 100}).reach == 100
    assert CASES["no content sparse attention"].reach == 7


@pytest.mark.parametrize("name", CASES)
def test_flops_are_what_pytorch_counts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CASES[name]
    batch = make_batch(random_log(2, delay=1), Filling.PACKED, CONTENT)
    tower = build(config, CONTENT)
    assert isinstance(tower, PackedESTTower)
    assert_flops_match(config, CONTENT, batch, unseen=tower.csa_flops(batch), ops=replayed(monkeypatch))


def test_contents_are_compared_within_windows() -> None:
    tower = build(SMALL, CONTENT)
    assert isinstance(tower, PackedESTTower)
    log = _line(6)
    batch = make_batch(log, Filling.PACKED, CONTENT)
    found = tower.content_flops(batch)
    windows = 1 + 2 + 3 + 4 + 4 + 4
    retrieved = 2  # the search finds so many, and CSA compares these with each other
    assert found["csa"] == 2 * 3 * (windows + retrieved**2)
    assert found["retrieval"] == 2 * 3 * 6


def test_two_histories_of_one_name_are_refused() -> None:
    tokens = TOKENS.model_copy(update={"retrieval": SEARCH.model_copy(update={"channel": "all"})})
    with pytest.raises(ValidationError, match="another name"):
        PackedESTConfig(tokens=tokens)
