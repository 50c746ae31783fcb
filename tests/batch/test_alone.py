"""What holds for impressions alone besides what every filling holds (test_reader.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctr_rec.batch.config import Alone
from ctr_rec.schema.manifest import SPLITS
from tests.batch.naive import ids, truths
from tests.batch.test_reader import ALONE, POINTWISE, Log, make_log, reader


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    return make_log(tmp_path_factory.mktemp("log"))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("tokens", "history"), [(2, 1), (11, 10), (40, 4), (400, 30)])
def test_the_token_budget_holds_for_impressions_alone(tmp_path: Path, seed: int, tokens: int, history: int) -> None:
    batches = Alone(impressions=30, history=history, tokens=tokens)
    log = make_log(tmp_path, seed=seed, longest=90)
    for split in SPLITS:
        chosen = reader(log, batches, split, channels={})
        made = list(chosen.batches(seed))
        assert sorted(ids(made)) == sorted(truths(log[0], log[1], split))
        for batch in made:
            assert 1 <= batch.num_impressions <= batch.num_tokens <= tokens
        if tokens == 400:
            assert len(made) <= chosen.num_impressions() / 12 + 7


def test_an_impression_alone_has_one_user_and_no_own_event(log: Log) -> None:
    expected = truths(log[0], log[1], "train")
    users = set()
    for batch in reader(log, ALONE).batches(0):
        assert batch.impression_user.tolist() == list(range(batch.num_impressions))
        assert batch.num_users == batch.num_impressions
        assert batch.impression_event.tolist() == [-1] * batch.num_impressions
        assert batch.user.tolist() == [expected[i].user["user"] for i in batch.impression_id.tolist()]
        users.add(frozenset(batch.user.tolist()))
    assert len(users) > 3


def test_impressions_alone_are_scattered_as_pointwise_ones(log: Log) -> None:
    alone, pointwise = (list(reader(log, batches).batches(2)) for batches in (ALONE, POINTWISE))
    assert [b.impression_id.tolist() for b in alone] == [b.impression_id.tolist() for b in pointwise]
