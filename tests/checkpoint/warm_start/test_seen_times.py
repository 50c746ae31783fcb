from __future__ import annotations

from pathlib import Path

import pytest

from ctr_rec.checkpoint.manifest import Manifest
from ctr_rec.checkpoint.warm_start.config import WarmStart
from ctr_rec.checkpoint.warm_start.seen_times import check_times, trained_until
from ctr_rec.checkpoint.warm_start.source import Source
from ctr_rec.errors import CheckpointError
from tests.batch.logs import random_users, schema, write_log
from tests.checkpoint.warm_start.cases import log_manifest


def until(manifest: Manifest | None = None, **settings: object) -> int | None:
    config = WarmStart.model_validate({"source": "src", **settings})
    return trained_until(config, Source("src", "checkpoint", {}, manifest=manifest), log_manifest())


def test_a_checkpoint_states_its_range_and_others_are_asked() -> None:
    assert until() is None
    assert until(trained_until=5) == 5
    assert until(Manifest(step=1, train_range=(0, 600))) == 600
    # What the recipe says cannot make it earlier.
    assert until(Manifest(step=1, train_range=(0, 600)), trained_until=5) == 600
    assert until(Manifest(step=1, train_range=(0, 600)), trained_until=700) == 700


def test_a_log_in_another_unit_is_converted(tmp_path: Path) -> None:
    write_log(tmp_path, random_users(seed=1), log_schema=schema().model_copy(update={"time_unit": "ms"}))
    manifest = Manifest(step=1, train_range=(0, 600_000), config={"data": {"log": str(tmp_path)}})
    assert until(manifest) == 600


def test_an_overlap_is_refused_unless_forced_and_unknown_is_a_doubt() -> None:
    config = WarmStart(source="src")
    assert check_times(config, 600, log_manifest()) == []
    with pytest.raises(CheckpointError, match=r"src was trained until 601, which lies in our validation or test"):
        check_times(config, 601, log_manifest())
    (doubt,) = check_times(config.model_copy(update={"force": True}), 601, log_manifest())
    assert "warm_start.force was set: metrics will be too good" in doubt
    (doubt,) = check_times(config, None, log_manifest())
    assert "nothing says until when src was trained" in doubt
    assert "state warm_start.trained_until" in doubt
