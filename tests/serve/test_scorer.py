"""A scorer answers every impression of a log, asked for as a request, with the packed pass's logit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ctr_rec.batch.config import Packed
from ctr_rec.config import override
from ctr_rec.errors import CheckpointError, ConfigError
from ctr_rec.evaluate.main import score
from ctr_rec.models.baselines.din import DINConfig
from ctr_rec.models.baselines.hstu import HSTUConfig
from ctr_rec.models.ranker import Ranker
from ctr_rec.models.tower import TowerConfig
from ctr_rec.schema.table import EmbeddingSettings
from ctr_rec.serve.log_users import LogUsers
from ctr_rec.serve.scorer import Scorer
from ctr_rec.sharding.group import open_group
from tests.evaluate.runs import train_alone
from tests.serve.requests import GRAB, data_config, make_ranker, make_users, packed_logits, requests, write
from tests.train.runs import small_run

CPU = torch.device("cpu")
HSTU = HSTUConfig(width=8, heads=2, head_width=4, window=6, layers=3)


def _scorer(log: Path, tower: TowerConfig = GRAB, delay: int = 0, **settings: int) -> tuple[Scorer, dict[int, float]]:
    """A scorer over the log, and the packed logits of the same model."""
    spec = write(log, make_users(), delay)
    ranker = make_ranker(spec, tower)
    scorer = Scorer(ranker, LogUsers(data_config(log), spec), tower.reach, CPU, **settings)
    return scorer, packed_logits(ranker, data_config(log), spec)


@pytest.mark.parametrize("tower", [GRAB, HSTU], ids=["grab", "hstu"])
@pytest.mark.parametrize("delay", [0, 90])
@pytest.mark.parametrize("spare", [0, 3, 100])
def test_every_impression_gets_the_packed_logit(tmp_path: Path, tower: TowerConfig, delay: int, spare: int) -> None:
    """Old requests and new ones, from one cached state or from one made for the occasion."""
    scorer, packed = _scorer(tmp_path, tower, delay, spare=spare)
    for number, request in enumerate(requests(make_users())):
        got = scorer.score(request.user, [request.item], request.time, request.context)
        assert got.item() == pytest.approx(packed[number], rel=0, abs=1e-11), request


def test_states_are_made_once_many_users_together_and_again_after_forgetting(tmp_path: Path) -> None:
    scorer, packed = _scorer(tmp_path, spare=100)
    asked: list[int] = []
    histories = scorer.users.histories

    def counted(users: list[int], newest: int, before: int | None = None):  # type: ignore[no-untyped-def]
        asked.extend(users)
        return histories(users, newest, before)

    scorer.users.histories = counted  # type: ignore[method-assign]
    scorer.encode([3, 0, 3, 2])
    assert asked == [3, 0, 2]
    wanted = [(n, r) for n, r in enumerate(requests(make_users())) if r.user == 3]
    for number, request in wanted:
        assert scorer.score(3, [request.item], request.time, request.context).item() == pytest.approx(packed[number])
    assert asked == [3, 0, 2]
    assert (scorer.cache.hits, scorer.cache.misses) == (len(wanted), 0)
    scorer.forget(3)
    assert 3 not in scorer.cache
    scorer.score(3, [0], 5000, wanted[0][1].context)
    assert asked == [3, 0, 2, 3]


def test_many_candidates_in_micro_batches_with_a_value_each(tmp_path: Path) -> None:
    scorer, _ = _scorer(tmp_path, micro_batch=2)
    items = [5, 0, 38, 5, 7]
    context = {
        "tab": [0, 1, 2, 3, 4],
        "topics": [[], [1], [2, 3], [], [6]],
        "item_like_count": [1, 2, 3, 4, 5],
        "item_like_rate": 0.5,
    }
    together = scorer.score(3, items, 700, context).tolist()
    for n, item in enumerate(items):
        own = {name: value[n] if isinstance(value, list) else value for name, value in context.items()}
        assert scorer.score(3, [item], 700, own).item() == pytest.approx(together[n], rel=0, abs=1e-12)
    assert len(set(together)) == 5
    assert scorer.score(3, [], 700, {**context, "tab": 0, "topics": [], "item_like_count": 1}).shape == (0,)


def test_later_events_of_the_log_do_not_matter(tmp_path: Path) -> None:
    """What happened at the request's time or after is changed and multiplied in the log; the answer stays."""
    now = 400
    before, _ = _scorer(tmp_path / "before")
    users = make_users()
    for user in users:
        later = [e for e in user["events"] if e["time"] >= now]
        changed = [{**e, "action": (e["action"] + 1) % 3, "item": (e["item"] + 1) % 39, "dwell": 9.0} for e in later]
        user["events"] = [*(e for e in user["events"] if e["time"] < now), *changed, *changed]
    spec = write(tmp_path / "after", users, 0)
    after = Scorer(make_ranker(spec), LogUsers(data_config(tmp_path / "after"), spec), GRAB.reach, CPU)
    context = {"tab": 1, "topics": [2], "item_like_count": 3.0, "item_like_rate": 0.1}
    for user in range(len(users)):
        want = before.score(user, [4, 9], now, context)
        torch.testing.assert_close(after.score(user, [4, 9], now, context), want, rtol=0, atol=1e-12)
        assert torch.equal(after.score(user, [4, 9], now + 600, context), want) is (not users[user]["events"])


def test_a_full_cache_costs_time_and_not_values(tmp_path: Path) -> None:
    scorer, packed = _scorer(tmp_path, cache_bytes=3000)
    for number, request in enumerate(requests(make_users())):
        got = scorer.score(request.user, [request.item], request.time, request.context)
        assert got.item() == pytest.approx(packed[number], rel=0, abs=1e-11)
        assert scorer.cache.num_bytes <= 3000


def test_users_are_packed_into_passes_of_bounded_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, _ = _scorer(tmp_path, spare=100)
    monkeypatch.setattr("ctr_rec.serve.scorer._TOKENS", 20)
    assert list(scorer._packs([0, 1, 2, 3, 4])) == [[0, 1, 2], [3], [4]]
    assert list(scorer._packs([])) == []


def test_settings_out_of_range_and_towers_without_a_state_are_refused(tmp_path: Path) -> None:
    spec = write(tmp_path, make_users(), 0)
    users = LogUsers(data_config(tmp_path), spec)
    with pytest.raises(ConfigError, match="expected micro_batch >= 1 and spare >= 0, got 0 and 64"):
        Scorer(make_ranker(spec), users, GRAB.reach, CPU, micro_batch=0)
    with pytest.raises(ConfigError, match="DINTower has no state of a history"):
        Scorer(Ranker(spec, DINConfig(), ("all",)), users, 0, CPU)


def test_a_run_becomes_a_scorer(tmp_path: Path) -> None:
    users = make_users()
    write(tmp_path / "log", users, 0)
    run = override(small_run(tmp_path / "log", epochs=1), ["train.record_impressions=false", "train.max_steps=2"])
    data = run.data.model_copy(update={"batches": Packed(tokens=400, context=40), "channels": {}})
    run = run.model_copy(update={"tower": GRAB, "data": data, "embedding": EmbeddingSettings(dim=4)})
    folder = train_alone(run, tmp_path / "run")
    with open_group("cpu") as group:
        packed = score(folder, "test", "last", None, group).predictions
        split_run = score(folder, "test", "last", None, group, micro_batch=2)
        assert split_run.predictions.logit == pytest.approx(packed.logit, abs=1e-5)
        assert "states of" in split_run.facts[0]
        scorer = Scorer.from_run(folder, group, "last", micro_batch=3)
        asked = requests(users)
        for number, logit in zip(packed.impression.tolist(), packed.logit.tolist(), strict=True):
            request = asked[number]
            got = scorer.score(request.user, [request.item], request.time, request.context)
            assert got.item() == pytest.approx(logit, abs=1e-5)
        with pytest.raises(CheckpointError, match="no checkpoint 'step-9'"):
            Scorer.from_run(folder, group, "step-9")
