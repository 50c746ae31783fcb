import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from ctr_rec.errors import DataError
from ctr_rec.evaluate import results
from ctr_rec.evaluate.predictions import Predictions
from ctr_rec.schema.manifest import LogManifest
from tests.batch.logs import random_users, write_log


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LogManifest]:
    folder = tmp_path_factory.mktemp("log")
    return folder, write_log(folder, random_users(seed=2))


def _predictions(num_rows: int, label: int | None = None, logit: float | None = None) -> Predictions:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, num_rows) if label is None else np.full(num_rows, label)
    return Predictions(
        impression=np.arange(num_rows),
        user=random.integers(0, 12, num_rows),
        item=random.integers(0, 39, num_rows),
        request_time=random.integers(0, 200, num_rows),
        history_length=random.integers(0, 30, num_rows),
        item_is_new=random.random(num_rows) < 0.2,
        label=labels.astype(np.float32),
        logit=(random.normal(size=num_rows) if logit is None else np.full(num_rows, logit)).astype(np.float32),
    )


def _measure(log: tuple[Path, LogManifest], rows: Predictions) -> results.Results:
    return results.measure("valid", rows, str(log[0]), log[1], {"step": 3})


def test_saved_metrics_are_strict_json_with_reasons_for_what_is_undefined(
    log: tuple[Path, LogManifest], tmp_path: Path
) -> None:
    rows = _predictions(50, label=1)
    results.save(tmp_path, _measure(log, rows), rows, str(log[0]), log[1])
    text = (tmp_path / "metrics" / "valid.json").read_text()
    assert "NaN" not in text
    found = json.loads(text)
    assert found["metrics"]["auc"] is None
    assert found["undefined"]["auc"] == "only positive labels: both are needed"
    assert found["metrics"]["impressions"] == 50
    assert (found["split"], found["step"], found["data_fingerprint"]) == ("valid", 3, "test")
    assert [slicing["by"] for slicing in found["slices"]] == [
        "history length",
        "item",
        "impressions of the user",
        "request time",
        "user",
    ]


def test_the_printed_table_fits_a_terminal(log: tuple[Path, LogManifest]) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    _measure(log, _predictions(300)).print(console)
    text = console.export_text()
    for word in ("valid: 300 impressions", "gauc_unweighted", "by history length", "by item", "by user", "new"):
        assert word in text
    assert "…" not in text


def test_an_undefined_metric_is_printed_with_its_reason(log: tuple[Path, LogManifest]) -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    _measure(log, _predictions(20, label=0)).print(console)
    assert "undefined (only negative labels: both are needed)" in console.export_text()


def test_nothing_to_measure_is_refused(log: tuple[Path, LogManifest]) -> None:
    with pytest.raises(DataError, match="at least one impression in split 'valid'"):
        _measure(log, _predictions(0))


def test_a_model_that_diverged_is_refused(log: tuple[Path, LogManifest]) -> None:
    with pytest.raises(DataError, match="expected a number, got NaN at row 0"):
        _measure(log, _predictions(5, logit=float("nan")))


def test_test_scorings_add_up(tmp_path: Path) -> None:
    assert results.read_test_scorings(tmp_path) == []
    assert [results.count_test_scoring(tmp_path, by) for by in ("one", "two")] == [1, 2]
    assert [one["by"] for one in results.read_test_scorings(tmp_path)] == ["one", "two"]
