import json
from pathlib import Path

import numpy as np
import pytest

from ctr_rec.errors import ConfigError, DataError
from ctr_rec.evaluate import counters, main
from ctr_rec.evaluate.compare import align
from ctr_rec.evaluate.predictions import Predictions
from ctr_rec.evaluate.stream import EventStream, item_categories, read_stream
from ctr_rec.schema.log import Split
from ctr_rec.schema.manifest import load_manifest
from tests.batch.logs import random_users, schema, write_log
from tests.evaluate.runs import make_log, train_alone, two_channel_run

DELAY = 20


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Interleaved requests, late actions, events that are no impression, users without events."""
    folder = tmp_path_factory.mktemp("log")
    items = [{"film": number + 1, "genres": found} for number, found in enumerate(_genres())]
    write_log(folder, random_users(seed=5, count=40), items=items, log_schema=schema(DELAY))
    return folder


@pytest.fixture(scope="module")
def stream(log: Path) -> EventStream:
    return read_stream(str(log), load_manifest(log), "liked")


def _counted(log: Path, stream: EventStream) -> counters.Counters:
    return counters.Counters(stream, item_categories(str(log), load_manifest(log)))


def _visible(stream: EventStream, event: int) -> np.ndarray:
    return (stream.known_at < stream.request_time[event]) & (stream.label >= 0)


def _log_odds(count: int, positives: int, mean: float, weight: float = counters.PRIOR_WEIGHT) -> float:
    rate = (positives + weight * mean) / (count + weight)
    return float(np.log(rate / (1 - rate)))


def _by_hand(stream: EventStream, items: list[set[int]], mean: float, event: int) -> dict[str, float]:
    """Every input of one event by looking at each other event."""
    visible = _visible(stream, event)
    item, user = stream.item == stream.item[event], stream.user == stream.user[event]
    counts = {name: (visible & mask) for name, mask in {"item": item, "user": user}.items()}
    found: dict[str, float] = {}
    for name, mask in counts.items():
        found[f"{name}_rate"] = _log_odds(mask.sum(), stream.label[mask].sum(), mean)
        found[f"{name}_count"] = float(np.log1p(mask.sum()))
    own = (stream.label[counts["user"]].sum() + 10 * mean) / (counts["user"].sum() + 10)
    known = user & (stream.known_at < stream.request_time[event])
    last = np.flatnonzero(known)[-counters.RECENT_EVENTS :]
    last = last[stream.label[last] >= 0]
    found["recent_rate"] = _log_odds(len(last), stream.label[last].sum(), own, counters.RECENT_PRIOR_WEIGHT)
    above, total = [], 0
    for category in items[stream.item[event]]:
        mine = counts["user"] & np.array([category in items[other] for other in stream.item])
        above.append(_log_odds(mine.sum(), stream.label[mine].sum(), own) - np.log(own / (1 - own)))
        total += mine.sum()
    found["category_rate"] = float(np.mean(above)) if above else 0.0
    found["category_count"] = float(np.log1p(total))
    return found


def _genres() -> list[list[int]]:
    return [sorted({number % 7, number % 5}) if number % 4 else [] for number in range(39)]


def test_every_running_number_counts_visible_events_only(log: Path, stream: EventStream) -> None:
    counted = _counted(log, stream)
    assert list(counted.categories) == ["genres"]
    values = {function.__name__: function(counted) for function in counters.INPUTS["counters7"]}
    genres = [set(found) for found in _genres()]
    for event in np.flatnonzero(stream.split >= 0)[::7]:
        expected = _by_hand(stream, genres, counted.mean, event)
        assert {name: value[event] for name, value in values.items()} == pytest.approx(expected, abs=1e-9), event


def test_no_number_moves_with_a_hidden_event(log: Path, stream: EventStream) -> None:
    event = int(np.flatnonzero(stream.split == 2)[len(stream.user) % 7])
    hidden = stream.known_at >= stream.request_time[event]
    flipped = np.where(hidden & (stream.label >= 0), 1 - stream.label, stream.label).astype(np.int8)
    changed = EventStream(**{**vars(stream), "label": flipped})
    before, after = _counted(log, stream), _counted(log, changed)
    after.mean = before.mean
    for function in counters.INPUTS["counters7"]:
        assert function(after)[event] == function(before)[event], function.__name__
    visible = np.where(~hidden & (stream.label >= 0), 1 - stream.label, stream.label).astype(np.int8)
    moved = _counted(log, EventStream(**{**vars(stream), "label": visible}))
    moved.mean = before.mean
    assert (
        moved.user_rate()[event] != before.user_rate()[event] or moved.item_rate()[event] != before.item_rate()[event]
    )


def test_item_mean_is_the_smoothed_rate_of_training(stream: EventStream) -> None:
    found = counters.item_mean(stream)
    weight = found.facts["prior_weight"]
    assert found.facts["tried"][f"{weight:g}"] == max(found.facts["tried"].values())
    train = stream.split == 0
    for event in np.flatnonzero(stream.split == 2)[:20]:
        mine = train & (stream.item == stream.item[event])
        expected = _log_odds(mine.sum(), stream.label[mine].sum(), stream.label[train].mean(), weight)
        assert found.logit[event] == pytest.approx(expected)


@pytest.mark.parametrize("scorer", counters.SCORERS)
def test_a_scorer_leaves_what_a_run_leaves(log: Path, tmp_path: Path, scorer: str) -> None:
    counters.score(scorer, log, tmp_path / "run")
    for split in ("valid", "test"):
        rows = Predictions.load(tmp_path / "run" / "predictions" / f"{split}.parquet")
        found = json.loads((tmp_path / "run" / "metrics" / f"{split}.json").read_text())
        assert found["metrics"]["impressions"] == len(rows) == load_manifest(log).impressions[1 + (split == "test")]
        assert found["scorer"] == scorer
    assert json.loads((tmp_path / "run" / "test-scored.json").read_text())["times"] == 1
    assert json.loads((tmp_path / "run" / "scorer.json").read_text())["scorer"] == scorer
    assert scorer in (tmp_path / "run" / "report.html").read_text()


def test_a_scorer_speaks_of_the_impressions_of_a_run(tmp_path: Path) -> None:
    log = make_log(tmp_path / "log")
    run = train_alone(two_channel_run(log), tmp_path / "run")
    main.evaluate(run, "valid")
    counters.score("counters2", log, tmp_path / "counters")
    files = [Predictions.load(folder / "predictions" / "valid.parquet") for folder in (run, tmp_path / "counters")]
    one, other = align(files, ["run", "counters"])
    for column in ("impression", "user", "item", "request_time", "history_length", "item_is_new", "label"):
        assert np.array_equal(getattr(one, column), getattr(other, column)), column


def test_refusals(log: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="scorer: expected one of item_mean, counters2, counters7, got 'mean'"):
        counters.score("mean", log, tmp_path / "run")
    with pytest.raises(ConfigError, match="label: expected one of liked, got 'bought'"):
        counters.score("item_mean", log, tmp_path / "run", label="bought")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    with pytest.raises(ConfigError, match="full is not empty; choose another --run-dir"):
        counters.score("item_mean", log, tmp_path / "full")


def test_a_log_that_cannot_teach_a_counter_is_refused(tmp_path: Path) -> None:
    users = random_users(seed=7, count=20)
    write_log(tmp_path / "late", users, split=Split(train_end=-2, valid_end=500))
    with pytest.raises(DataError, match=r"both values of label 'liked' in the training range, got 0 impressions"):
        counters.score("item_mean", tmp_path / "late", tmp_path / "run")
    write_log(tmp_path / "early", users, split=Split(train_end=5000, valid_end=6000))
    with pytest.raises(DataError, match=r"expected impressions in the validation range, got none"):
        counters.score("item_mean", tmp_path / "early", tmp_path / "run")
    assert not (tmp_path / "run").exists()
