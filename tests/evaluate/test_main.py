import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ctr_rec.checkpoint.export import convert
from ctr_rec.checkpoint.history import latest
from ctr_rec.config import override
from ctr_rec.errors import CheckpointError, ConfigError, DataError, SchemaError
from ctr_rec.evaluate import main
from ctr_rec.evaluate.predictions import Predictions
from ctr_rec.evaluate.results import read_test_scorings
from ctr_rec.metrics.mergeable import all_metrics
from ctr_rec.models.ranker import Branch
from ctr_rec.sharding.group import Group, open_group
from tests.checkpoint.export.reading import read_safetensors
from tests.evaluate.runs import make_log, train_alone, two_channel_run
from tests.ranks import run_ranks
from tests.train.runs import run_with_beside


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    return train_alone(two_channel_run(make_log(folder / "log")), folder / "run")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def _log(run: Path) -> Path:
    return Path(json.loads((run / "config.json").read_text())["data"]["log"])


def _last_validation(run: Path) -> dict[str, float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "valid"][-1]


def test_a_folder_scores_what_the_trainer_scored(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main.evaluate(run, "valid")
    found = json.loads((run / "metrics" / "valid.json").read_text())
    trained = _last_validation(run)
    for key, value in found["metrics"].items():
        assert value == pytest.approx(trained[key], abs=1e-6), key
    assert found["step"] == 6
    assert "0.5" in capsys.readouterr().out
    assert (run / "report.html").is_file()
    assert not (run / "test-scored.json").exists()


def test_predictions_carry_raw_ids_and_give_the_metrics(run: Path) -> None:
    main.evaluate(run, "test")
    table = pq.read_table(run / "predictions" / "test.parquet")
    assert table["user_id"].to_pylist() == [f"u{number}" for number in table["user"].to_pylist()]
    assert table["item_id"].to_pylist() == [f"i{number}" for number in table["item"].to_pylist()]
    rows = Predictions.load(run / "predictions" / "test.parquet")
    found = json.loads((run / "metrics" / "test.json").read_text())
    expected = all_metrics(rows.label, rows.logit, rows.user)
    assert found["metrics"] == pytest.approx({key: float(value) for key, value in expected.items()})
    for slicing in found["slices"]:
        assert sum(bucket["impressions"] for bucket in slicing["buckets"]) == len(rows), slicing["by"]
    assert found["slices"][0]["by"] == "history length"
    assert found["cost"]["dense"] > 0


def test_every_scoring_of_the_test_range_is_counted(run: Path, tmp_path: Path) -> None:
    main.evaluate(run, "test")
    main.predict(run, tmp_path / "out.parquet", "test", "last")
    main.predict(run, tmp_path / "valid.parquet", "valid")
    counted = json.loads((run / "test-scored.json").read_text())
    assert counted["times"] == 2
    assert [one["by"] for one in counted["scored"]] == ["evaluate, step 6", "predict, step 6"]
    assert len(read_test_scorings(run)) == 2
    main.evaluate(run, "valid")
    assert "the test range was scored 2 times" in (run / "report.html").read_text()


def test_a_damaged_count_is_not_started_anew(run: Path) -> None:
    (run / "test-scored.json").write_text('{"times": 4}')
    with pytest.raises(DataError, match=r"test-scored.json: expected the list of test scorings.*restore or remove"):
        main.evaluate(run, "test")


def test_predict_writes_the_file_alone(run: Path, tmp_path: Path) -> None:
    before = {path.name for path in run.iterdir()}
    main.predict(run, tmp_path / "deep" / "valid.parquet", "valid", "step-6")
    assert {path.name for path in run.iterdir()} == before
    rows = Predictions.load(tmp_path / "deep" / "valid.parquet")
    assert float(all_metrics(rows.label, rows.logit, rows.user)["auc"]) == pytest.approx(_last_validation(run)["auc"])


def _score(group: Group, run: Path) -> Predictions:
    return main.score(run, "test", "best", None, group).predictions


def test_two_ranks_predict_what_one_predicts(run: Path) -> None:
    with open_group("cpu") as group:
        alone = _score(group, run)
    first, second = run_ranks(_score, 2, run)
    assert np.array_equal(first.logit, second.logit)
    assert np.array_equal(alone.impression, first.impression)
    assert np.array_equal(alone.user, first.user)
    assert first.logit == pytest.approx(alone.logit, abs=1e-5)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is not a run folder: it has no config\.json"):
        main.evaluate(tmp_path, "valid")


def test_unknown_splits_and_checkpoints_are_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match="split: the train range of the run's own log is what it was trained on"):
        main.evaluate(run, "train")
    with pytest.raises(ConfigError, match="split: expected one of train, valid, test, got 'tests'"):
        main.evaluate(run, "tests")
    with pytest.raises(CheckpointError, match=r"no checkpoint 'step-5'; it has: best, last, step-4, step-6"):
        main.evaluate(run, "valid", "step-5")


def test_a_log_that_changed_behind_the_run_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = Path(shutil.copytree(_log(run), tmp_path / "log"))
    manifest = json.loads((log / "manifest.json").read_text())
    (log / "manifest.json").write_text(json.dumps({**manifest, "fingerprint": "another"}))
    config = json.loads((run / "config.json").read_text())
    config["data"]["log"] = str(log)
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"fingerprint test, this log has another.*or say --log"):
        main.evaluate(run, "valid")
    main.evaluate(run, "valid", log=log)
    assert (run / "metrics" / "valid.json").is_file()
    assert "is not the log of the run: tables have the same sizes, but their rows may stand" in capsys.readouterr().out


def _with_schema(run: Path, log: Path, **changes: object) -> Path:
    """A copy of the run's log whose manifest says something else of the data."""
    shutil.copytree(_log(run), log)
    manifest = json.loads((log / "manifest.json").read_text())
    manifest["data_schema"] |= changes
    (log / "manifest.json").write_text(json.dumps(manifest))
    return log


def test_a_log_with_other_features_than_the_models_is_refused(run: Path, tmp_path: Path) -> None:
    features = json.loads((_log(run) / "manifest.json").read_text())["data_schema"]["features"]
    price = [{**f, "log1p": False} if f["name"] == "price" else f for f in features]
    log = _with_schema(run, tmp_path / "plain", features=price)
    with pytest.raises(
        SchemaError, match=r"feature 'price': the model was made for .*True.*the log 'small' has.*False"
    ):
        main.evaluate(run, "valid", log=log)
    log = _with_schema(run, tmp_path / "fewer", features=[f for f in features if f["name"] != "price"])
    with pytest.raises(SchemaError, match=r"schema 'small' has no feature 'price'; it has"):
        main.predict(run, tmp_path / "out.parquet", "valid", log=log)
    log = _with_schema(run, tmp_path / "ms", time_unit="ms")
    with pytest.raises(SchemaError, match=r"times with 1 ticks per second, the log 'small' has times in 'ms'"):
        main.evaluate(run, "valid", log=log)
    assert not (run / "metrics").exists()
    assert not (tmp_path / "out.parquet").exists()


def test_features_in_another_order_are_read_in_the_models(run: Path, tmp_path: Path) -> None:
    features = json.loads((_log(run) / "manifest.json").read_text())["data_schema"]["features"]
    log = _with_schema(run, tmp_path / "log", features=features[::-1])
    main.evaluate(run, "valid", log=log)
    auc = json.loads((run / "metrics" / "valid.json").read_text())["metrics"]["auc"]
    assert auc == pytest.approx(_last_validation(run)["auc"], abs=1e-6)


def test_a_log_whose_range_was_trained_on_is_scored_with_a_warning(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = Path(shutil.copytree(_log(run), tmp_path / "log"))
    manifest = json.loads((log / "manifest.json").read_text())
    manifest["split"] = {"train_end": 300, "valid_end": 800}
    (log / "manifest.json").write_text(json.dumps(manifest))
    for group in manifest["row_groups"]:
        group["impressions"] = _counts(log, group)
    (log / "manifest.json").write_text(json.dumps(manifest))
    main.evaluate(run, "valid", log=log)
    assert "begins at 300, but the run was trained up to 600" in capsys.readouterr().out
    assert "trained up to 600" in (run / "report.html").read_text()


def _counts(log: Path, group: dict[str, object]) -> list[int]:
    rows = pq.ParquetFile(log / str(group["file"])).read_row_group(int(str(group["index"]))).to_pylist()
    times = [time for row in rows for time, shown in zip(row["request_time"], row["impression"], strict=True) if shown]
    return np.bincount(np.digitize(times, [300, 800], right=True), minlength=3).tolist()


def test_the_network_beside_a_model_is_scored_apart(tmp_path: Path) -> None:
    trained = train_alone(
        override(run_with_beside(make_log(tmp_path / "log"), epochs=1), ["train.max_steps=4"]), tmp_path / "run"
    )
    main.evaluate(trained, "valid", "last")
    main.evaluate(trained, "valid", "last", branch=Branch.BESIDE)
    said = _last_validation(trained)
    mine, beside = (json.loads((trained / where / "metrics" / "valid.json").read_text()) for where in (".", "beside"))
    for metric in ("auc", "gauc", "logloss"):
        assert mine["metrics"][metric] == pytest.approx(said[metric], abs=1e-12)
        assert beside["metrics"][metric] == pytest.approx(said[f"beside_{metric}"], abs=1e-12)
    assert mine["cost"]["dense"] == beside["cost"]["beside"]
    assert mine["cost"]["beside"] == beside["cost"]["dense"]
    assert mine["cost"]["sparse"] == beside["cost"]["sparse"]
    assert "parameters of the network beside it" in (trained / "report.html").read_text()
    convert(str(latest(trained)), "safetensors", tmp_path / "out", say=lambda sentence: None)
    exported = read_safetensors(tmp_path / "out" / "dense.safetensors")
    assert "head.weight" in exported
    assert not any("beside" in name for name in exported)


def test_a_run_without_a_second_network_has_none_to_score(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"was trained without a second network; leave --branch out"):
        main.evaluate(run, "valid", branch=Branch.BESIDE)
