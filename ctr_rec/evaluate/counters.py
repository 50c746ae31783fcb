"""Reference scorers without a network: a tower that does not beat them on GAUC has learned little about the user.

`item_mean`   the item's like-rate in the training range, drawn towards the mean of all items.
`counters2`   logistic regression on the running like-rates of item and user.
`counters7`   the same on seven running numbers: like-rate and count of the item, of the user and of the user within
              the item's categories, and the like-rate of the user's last events.

Running numbers obey the rule of visibility (batch/visibility.py) and go on through validation and test, as a counter
in production does; the regression's weights come from the training range alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from sklearn.linear_model import LogisticRegression

from ctr_rec.batch.columns import Column, Int64, Ragged, take
from ctr_rec.errors import ConfigError, DataError
from ctr_rec.evaluate import results
from ctr_rec.evaluate.predictions import Predictions
from ctr_rec.evaluate.report import write_report
from ctr_rec.evaluate.stream import EventStream, first_times, item_categories, read_stream
from ctr_rec.files import write_json
from ctr_rec.metrics.ranking import auc
from ctr_rec.prepare.counters import running
from ctr_rec.schema.manifest import SPLITS, LogManifest, load_manifest
from ctr_rec.train.environment import code_version

FloatArray = npt.NDArray[np.float64]

ITEM_PRIOR_WEIGHTS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
# Pseudo-impressions in every running rate, and in the rate of the last events, which are few by definition.
PRIOR_WEIGHT = 10.0
RECENT_EVENTS, RECENT_PRIOR_WEIGHT = 20, 5.0


@dataclass(frozen=True)
class Scores:
    """logit: float64 [E], of every event of the stream. facts: how the scorer came to be, plain data."""

    logit: FloatArray
    facts: dict[str, Any]


class Counters:
    """Running numbers of every event of a stream, each a float64 array [E]; computed when first asked for."""

    def __init__(self, stream: EventStream, categories: dict[str, Column]) -> None:
        self.stream = stream
        self.categories = categories
        self.mean = float(stream.label[stream.rows("train")].mean())

    @cached_property
    def _item(self) -> tuple[Int64, Int64]:
        return self._running(self.stream.item)

    @cached_property
    def _user(self) -> tuple[Int64, Int64]:
        return self._running(self.stream.user)

    def _running(self, owner: Int64) -> tuple[Int64, Int64]:
        return running(owner, self.stream.known_at, self.stream.request_time, self.stream.label)

    def item_rate(self) -> FloatArray:
        return _log_odds(_rate(*self._item, self.mean))

    def item_count(self) -> FloatArray:
        return np.log1p(self._item[0])

    def user_rate(self) -> FloatArray:
        return _log_odds(self._user_rate)

    def user_count(self) -> FloatArray:
        return np.log1p(self._user[0])

    @cached_property
    def _user_rate(self) -> FloatArray:
        return _rate(*self._user, self.mean)

    def recent_rate(self) -> FloatArray:
        """Like-rate among the user's last visible events, drawn towards the user's own rate."""
        stream = self.stream
        index = np.arange(len(stream.user))
        first = np.concatenate(([True], stream.user[1:] != stream.user[:-1]))
        start = np.maximum.accumulate(np.where(first, index, 0))
        end = start + stream.history_length
        begin = np.maximum(start, end - RECENT_EVENTS)
        labelled = np.concatenate(([0], np.cumsum(stream.label >= 0)))
        liked = np.concatenate(([0], np.cumsum(stream.label == 1)))
        count, positives = labelled[end] - labelled[begin], liked[end] - liked[begin]
        return _log_odds(_rate(count, positives, self._user_rate, RECENT_PRIOR_WEIGHT))

    def category_rate(self) -> FloatArray:
        """By how much the user likes the item's categories more than other items: log-odds, mean over categories."""
        return self._category[0]

    def category_count(self) -> FloatArray:
        """Visible events of the user in the item's categories, summed over categories, log1p."""
        return np.log1p(self._category[1])

    @cached_property
    def _category(self) -> tuple[FloatArray, FloatArray]:
        size = len(self.stream.user)
        above, events = np.zeros(size), np.zeros(size)
        for column in self.categories.values():
            rate, count = self._within(column)
            above += rate / len(self.categories)
            events += count
        return above, events

    def _within(self, column: Column) -> tuple[FloatArray, FloatArray]:
        stream = self.stream
        ragged = column if isinstance(column, Ragged) else Ragged(column, np.arange(len(column) + 1))
        mine = take(ragged, stream.item)
        assert isinstance(mine, Ragged)
        number = np.diff(mine.offsets)
        event = np.repeat(np.arange(len(number)), number)
        width = int(ragged.values.max(initial=0)) + 1
        owner = stream.user[event] * width + mine.values
        count, positives = running(owner, stream.known_at[event], stream.request_time[event], stream.label[event])
        user_rate = self._user_rate[event]
        above = _log_odds(_rate(count, positives, user_rate)) - _log_odds(user_rate)
        size = len(number)
        mean = np.bincount(event, above, size) / np.maximum(number, 1)
        return mean, np.bincount(event, count, size).astype(np.float64)


INPUTS: dict[str, tuple[Callable[[Counters], FloatArray], ...]] = {
    "counters2": (Counters.item_rate, Counters.user_rate),
    "counters7": (
        Counters.item_rate,
        Counters.item_count,
        Counters.user_rate,
        Counters.user_count,
        Counters.category_rate,
        Counters.category_count,
        Counters.recent_rate,
    ),
}
SCORERS = ("item_mean", *INPUTS)


def score(scorer: str, log: Path, run_dir: Path, label: str | None = None) -> None:
    """Scores validation and test of a prepared log and writes the folder that a run of a model would have.

    Args:
        scorer: `item_mean`, `counters2` or `counters7`.
        log: folder of a prepared log.
        run_dir: new or empty folder, for predictions, metrics, report.html and `scorer.json`.
        label: which label; default the log's first.

    Raises:
        ConfigError: no such scorer or label, a folder that is not empty, a training range without both labels, or no
        validation impression. DataError: the log cannot be read.
    """
    if scorer not in SCORERS:
        raise ConfigError(f"scorer: expected one of {', '.join(SCORERS)}, got {scorer!r}")
    if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
        raise ConfigError(f"run folder {run_dir} is not empty; choose another --run-dir")
    manifest = load_manifest(log)
    label = label or manifest.data_schema.labels[0]
    stream = read_stream(str(log), manifest, label)
    _check(stream, log, label)
    scores = item_mean(stream) if scorer == "item_mean" else regression(scorer, stream, _categories(log, manifest))
    facts = {"scorer": scorer, "label": label, "code": code_version(), **scores.facts}
    run_dir.mkdir(parents=True, exist_ok=True)
    write_json(run_dir / "scorer.json", {**facts, "log": str(log), "data_fingerprint": manifest.fingerprint})
    _save(run_dir, str(log), manifest, stream, scores.logit, facts)


def item_mean(stream: EventStream) -> Scores:
    """Each item's like-rate in training, (likes + w mean) / (count + w); w by validation AUC from a stated grid."""
    train, valid = stream.rows("train"), stream.rows("valid")
    size = int(stream.item.max()) + 1
    count = np.bincount(stream.item[train], minlength=size)
    likes = np.bincount(stream.item[train], stream.label[train], size)
    mean = float(stream.label[train].mean())
    tried = {
        weight: float(auc(stream.label[valid], _rate(count, likes, mean, weight)[stream.item[valid]]))
        for weight in ITEM_PRIOR_WEIGHTS
    }
    best = max(tried, key=lambda weight: tried[weight])
    logit = _log_odds(_rate(count, likes, mean, best))[stream.item]
    facts = {"prior_weight": best, "tried": {f"{weight:g}": value for weight, value in tried.items()}}
    return Scores(logit, facts)


def regression(scorer: str, stream: EventStream, categories: dict[str, Column]) -> Scores:
    """Logistic regression (scikit-learn's default penalty) on inputs standardised over the training range."""
    counters = Counters(stream, categories)
    train = stream.rows("train")
    names = [function.__name__ for function in INPUTS[scorer]]
    inputs = np.stack([function(counters) for function in INPUTS[scorer]], axis=1)
    center, scale = inputs[train].mean(axis=0), inputs[train].std(axis=0)
    inputs = (inputs - center) / np.where(scale > 0, scale, 1.0)
    model = LogisticRegression(max_iter=500).fit(inputs[train], stream.label[train])
    weights = dict(zip(names, model.coef_[0].round(6).tolist(), strict=True))
    facts = {"inputs": weights, "categories": sorted(categories), "prior_weight": PRIOR_WEIGHT}
    return Scores(model.decision_function(inputs), facts)


def _check(stream: EventStream, log: Path, label: str) -> None:
    train = stream.label[stream.rows("train")]
    if not (train == 0).any() or not (train == 1).any():
        raise DataError(
            f"{log}: expected both values of label {label!r} in the training range, got {len(train):,} impressions of "
            "one value or none; choose other split ends"
        )
    if not len(stream.rows("valid")):
        raise DataError(f"{log}: expected impressions in the validation range, got none; choose other split ends")


def _categories(log: Path, manifest: LogManifest) -> dict[str, Column]:
    return item_categories(str(log), manifest)


def _save(
    run_dir: Path, log: str, manifest: LogManifest, stream: EventStream, logit: FloatArray, facts: dict[str, Any]
) -> None:
    console = Console()
    new_item = first_times(log) > manifest.split.train_end
    for split in SPLITS[1:]:
        rows = stream.rows(split)
        if not len(rows):
            console.print(f"{split}: no impression in this log, nothing scored", highlight=False, soft_wrap=True)
            continue
        predictions = _predictions(stream, rows, logit, new_item)
        found = results.measure(split, predictions, log, manifest, facts)
        results.save(run_dir, found, predictions, log, manifest)
        found.print(console)
        if split == "test":
            results.count_test_scoring(run_dir, str(facts["scorer"]))
    console.print(f"report: {write_report(run_dir)}", highlight=False, soft_wrap=True)


def _predictions(
    stream: EventStream, rows: Int64, logit: FloatArray, item_is_new: npt.NDArray[np.bool_]
) -> Predictions:
    return Predictions(
        impression=stream.event_id[rows],
        user=stream.user[rows],
        item=stream.item[rows],
        request_time=stream.request_time[rows],
        history_length=stream.history_length[rows],
        item_is_new=item_is_new[stream.item[rows]],
        label=stream.label[rows].astype(np.float32),
        logit=logit[rows].astype(np.float32),
    ).sorted()


def _rate(
    count: npt.NDArray[Any], positives: npt.NDArray[Any], mean: float | FloatArray, weight: float = PRIOR_WEIGHT
) -> FloatArray:
    """(positives + weight mean) / (count + weight)."""
    return (positives + weight * mean) / (count + weight)


def _log_odds(rate: FloatArray) -> FloatArray:
    return np.log(rate) - np.log1p(-rate)
