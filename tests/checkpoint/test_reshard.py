"""A checkpoint goes from 4 ranks to 2, 1 and 3, every table to another placement each time, and nothing changes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from ctr_rec.checkpoint.store import load, save
from ctr_rec.sharding.group import Group, open_group
from tests.checkpoint.test_store import assert_equal, manifest, start, state_of, whole_state
from tests.ranks import run_ranks
from tests.sharding.test_parallelize import step

KINDS = ("sgd", "adagrad", "rowwise_adagrad")
# Row by row and whole for tables of sequences, whole and on every rank for bags: each swaps at every stop.
ONE = {"item": "row_wise", "genre": "table_wise", "age": "table_wise", "word": "data_parallel"}
OTHER = {"item": "table_wise", "genre": "row_wise", "age": "data_parallel", "word": "table_wise"}
JOURNEY = ((4, ONE), (2, OTHER), (1, ONE), (3, OTHER), (4, OTHER), (1, OTHER))
STEPS = 3


@dataclass
class Stop:
    """Whole states when loaded and when saved; losses of the first step after loading and of the one after saving."""

    loaded: dict[str, np.ndarray]
    saved: dict[str, np.ndarray]
    first_loss: float
    next_loss: float


def _stop(group: Group, folder: Path, number: int) -> dict[str, Stop]:
    """Goes on from where the last stop saved, trains a little, and saves for the next."""
    stops = {}
    for kind in KINDS:
        parallel, dense = start(group, kind, JOURNEY[number][1])
        assert {t.table: t.sharding for t in parallel.plan.tables} == JOURNEY[number][1]
        if number:
            load(folder / f"{kind}-{number - 1}", state_of(parallel, dense), group)
        loaded = whole_state(parallel, dense)
        losses = [step(parallel, dense, number * STEPS + k) for k in range(STEPS)]
        save(folder / f"{kind}-{number}", state_of(parallel, dense), manifest(number), {}, group)
        saved = whole_state(parallel, dense)
        stops[kind] = Stop(loaded, saved, losses[0], step(parallel, dense, (number + 1) * STEPS))
    return stops


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Stop]]:
    folder, stops = tmp_path_factory.mktemp("journey"), []
    for number, (ranks, _) in enumerate(JOURNEY):
        if ranks > 1:
            stops.append(run_ranks(_stop, ranks, folder, number)[0])
            continue
        with open_group("cpu") as group:
            stops.append(_stop(group, folder, number))
    return stops


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_and_optimizer_state_arrive_to_the_bit(journey: list[dict[str, Stop]], kind: str) -> None:
    for before, after in pairwise(journey):
        assert_equal(after[kind].loaded, before[kind].saved)
        for name, value in before[kind].saved.items():
            assert not np.isnan(value).any(), name
            if name.startswith("moment/"):
                assert value.any(), f"{name} never moved: it says nothing"
    moments = {name for name in journey[0][kind].saved if name.startswith("moment/")}
    expected = {f"moment/{table}.momentum1" for table in ("item", "genre", "age", "word")}
    assert moments == (set() if kind == "sgd" else expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_step_has_the_same_loss(journey: list[dict[str, Stop]], kind: str) -> None:
    for before, after in pairwise(journey):
        assert after[kind].first_loss == pytest.approx(before[kind].next_loss, abs=1e-6)
