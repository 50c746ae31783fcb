import io
import json
import os
import time
from collections.abc import Callable

import pytest

from ctr_rec.bench.record import Record, Timing, emit_json, emit_to, environment, measure, one_core
from ctr_rec.errors import ConfigError

FIELDS = {"bench", "case", "metric", "value", "unit", "baseline", "ratio", "goal", "min", "max", "runs", "environment"}


def _record(value: float, ratio: float | None, goal: str | None) -> Record:
    return Record(bench="b", case="c", metric="m", value=value, unit="s", ratio=ratio, goal=goal, environment={})


def test_a_line_has_every_field_and_is_flushed() -> None:
    stream = io.StringIO()
    emit = emit_json(stream)
    emit("gauc", "small", "seconds", 0.25, "s", goal="<= 0.3", min=0.2, max=0.3, runs=5)
    emit("gauc", "small", "difference", float("nan"), "AUC")
    first, second = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert set(first) == FIELDS
    assert (first["value"], first["goal"], first["runs"]) == (0.25, "<= 0.3", 5)
    assert first["baseline"] is None
    assert first["environment"]["python"]
    assert second["value"] is None


def test_a_record_reaches_its_receiver() -> None:
    records: list[Record] = []
    emit_to(records.append)("b", "c", "m", 2.0, "x", baseline=1.0, ratio=2.0)
    assert (records[0].baseline, records[0].ratio, records[0].environment) == (1.0, 2.0, environment())


@pytest.mark.parametrize(
    ("value", "ratio", "goal", "met"),
    [
        (0.2, None, "<= 0.3", True),
        (0.4, None, "<= 0.3", False),
        (1000.0, 2.4, ">= 2.5", False),
        (1.0, 2.6, ">= 2.5", True),
        (0.0, None, "<= 1e-12", True),
        (1.0, None, None, None),
    ],
)
def test_a_goal_speaks_of_the_ratio_where_there_is_one(
    value: float, ratio: float | None, goal: str | None, met: bool | None
) -> None:
    assert _record(value, ratio, goal).goal_met() is met


@pytest.mark.parametrize("goal", ["fast", "<=0.3", "~ 3"])
def test_an_unreadable_goal_is_refused(goal: str) -> None:
    with pytest.raises(ConfigError, match=f"goal of b: expected .* got '{goal}'; write '>= 5'"):
        _record(1.0, None, goal).goal_met()


def test_functions_are_called_in_turn() -> None:
    calls: list[str] = []
    timings = measure({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, runs=3, warmup=1)
    assert calls == ["a", "b"] * 4
    assert timings["a"].runs == 3
    assert timings["b"].min <= timings["b"].median <= timings["b"].max


class Clock:
    """Seconds that pass only when told, so that a busy machine changes nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def spend(self, *seconds: float) -> Callable[[], None]:
        left = list(seconds)

        def call() -> None:
            self.now += left.pop(0)

        return call


def test_the_first_call_only_warms_up(monkeypatch: pytest.MonkeyPatch) -> None:
    timings = measure({"fn": Clock(monkeypatch).spend(60, 3, 1, 2)}, runs=3)
    assert timings["fn"] == Timing(median=2, min=1, max=3, runs=3)


def test_seconds_are_those_of_the_right_function(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    timings = measure({"slow": clock.spend(5, 7), "quick": clock.spend(1, 1)}, runs=2, warmup=0)
    assert timings["slow"] == Timing(median=6, min=5, max=7, runs=2)
    assert timings["quick"] == Timing(median=1, min=1, max=1, runs=2)


def test_no_runs_are_refused() -> None:
    with pytest.raises(ConfigError, match="bench: expected at least 1 run, got 0"):
        measure({}, runs=0)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system cannot bind a process to a core")
def test_one_core_is_given_back() -> None:
    before = os.sched_getaffinity(0)
    with one_core():
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before
