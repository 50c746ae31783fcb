"""A run started from another run: by id, before its first step, never on resume."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ctr_rec.checkpoint.warm_start.config import TableWarmStart, WarmStart
from ctr_rec.checkpoint.warm_start.report import FILE, WarmStartReport
from ctr_rec.errors import CheckpointError, ConfigError
from ctr_rec.schema.log import Split
from ctr_rec.sharding.group import Group, open_group
from ctr_rec.sharding.restart import _pieces
from ctr_rec.sharding.tables import local_shards, table_of
from ctr_rec.train.build import Built, build
from ctr_rec.train.checkpoints import load_weights
from ctr_rec.train.folder import RunFolder
from ctr_rec.train.main import fit
from ctr_rec.train.run import Run
from ctr_rec.train.stage import Restart
from ctr_rec.train.start import begin_again
from ctr_rec.train.trainer import Trainer
from ctr_rec.train.warm_start import fill_tables, report_only, start_warm
from tests.batch.logs import TABLES, random_users, write_log
from tests.checkpoint.warm_start.cases import write_vocabulary
from tests.ranks import run_ranks
from tests.train.runs import small_run


def order_of(table: str, seed: int) -> list[str]:
    """Ids of rows 1, 2, ... of a log's table: another order for each seed."""
    ids = np.array([f"{table}-{n}" for n in range(TABLES[table] - 1)])
    return ids[np.random.default_rng([seed, len(ids)]).permutation(len(ids))].tolist()


def small_log(folder: Path, seed: int, split: Split | None = None) -> Path:
    write_log(folder, random_users(seed=3, count=25), split=split or Split(train_end=600, valid_end=800))
    for table in TABLES:
        ids = order_of(table, seed)
        write_vocabulary(
            folder / "vocabulary" / f"{table}.parquet", ids, range(1, len(ids) + 1), range(len(ids), 0, -1)
        )
    return folder


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on a log of its own."""
    root = tmp_path_factory.mktemp("old")
    with open_group("cpu") as group:
        fit(small_run(small_log(root / "log", seed=1), epochs=1), RunFolder(root / "run"), group, resume=False)
    return root


def new_run(old: Path, log: Path, **settings: object) -> Run:
    config = WarmStart.model_validate({"source": str(old / "run"), "checkpoint": "last", **settings})
    return small_run(log, epochs=1).model_copy(update={"warm_start": config})


def tables_of(run: Run, group: Group, folder: Path | None = None) -> dict[str, np.ndarray]:
    """Whole tables of one rank: of a saved run, or as a fresh run starts."""
    built = build(run, group)
    if folder is not None:
        load_weights(RunFolder(folder), built, "last")
    elif run.warm_start is not None:
        fill_tables(run.warm_start, built)
    return {s.table: s.weight.numpy().copy() for s in local_shards(built.parallel.model)}


def test_rows_follow_their_ids_into_another_order(old: Path, tmp_path: Path) -> None:
    run = new_run(old, small_log(tmp_path / "log", seed=2))
    assert order_of("item", 1) != order_of("item", 2)
    with open_group("cpu") as group:
        before = tables_of(RunFolder(old / "run").load_run(), group, old / "run")
        after = tables_of(run, group)
    for table in TABLES:
        theirs = {text: row for row, text in enumerate(order_of(table, 1), start=1)}
        for row, text in enumerate(order_of(table, 2), start=1):
            assert np.array_equal(after[table][row], before[table][theirs[text]]), (table, text)
        assert np.array_equal(after[table][0], before[table][0])


def trained(group: Group, run: Run, folder: Path, resume: bool) -> dict[str, np.ndarray]:
    fit(run, RunFolder(folder), group, resume)
    return tables_of(run, group, folder)


def test_training_starts_warm_once_and_keeps_the_report(old: Path, tmp_path: Path) -> None:
    run = new_run(old, small_log(tmp_path / "log", seed=2), dense="matching")
    with open_group("cpu") as group:
        ends = trained(group, run, tmp_path / "run", False)
        report = WarmStartReport.model_validate_json((tmp_path / "run" / FILE).read_text())
        assert {t.table: t.matched for t in report.tables} == {t: rows - 1 for t, rows in TABLES.items()}
        assert all(t.optimizer_state == "carried: row-wise Adagrad" for t in report.tables)
        assert all(t.row_zero == "carried" for t in report.tables)
        assert report.trained_until == 600
        assert not report.dense.left_out
        assert report.warnings == ()
        # A resumed run goes on from its own checkpoint; the source may be gone by then.
        gone = run.model_copy(update={"warm_start": run.warm_start})
        shutil.copytree(tmp_path / "run", tmp_path / "again")
        (tmp_path / "again" / FILE).unlink()
        resumed = trained(group, gone, tmp_path / "again", True)
    assert not (tmp_path / "again" / FILE).exists()
    for table, values in ends.items():
        assert np.array_equal(resumed[table], values)


def started(group: Group, run: Run, folder: Path) -> str:
    built = build(run, group)
    return start_warm(run.warm_start, built, RunFolder(folder)).model_dump_json()  # type: ignore[arg-type]


def test_ranks_report_alike(old: Path, tmp_path: Path) -> None:
    run = new_run(old, small_log(tmp_path / "log", seed=2))
    (alone,) = run_ranks(started, 1, run, tmp_path)
    assert run_ranks(started, 2, run, tmp_path) == [alone, alone]
    assert json.loads((tmp_path / FILE).read_text()) == json.loads(alone)


def test_a_source_that_saw_our_validation_range_is_refused(old: Path, tmp_path: Path) -> None:
    log = small_log(tmp_path / "log", seed=2, split=Split(train_end=500, valid_end=800))
    with open_group("cpu") as group:
        with pytest.raises(CheckpointError, match=r"was trained until 600, which lies in our validation or test range"):
            fit(new_run(old, log), RunFolder(tmp_path / "run"), group, resume=False)
        fit(new_run(old, log, force=True), RunFolder(tmp_path / "forced"), group, resume=False)
    report = WarmStartReport.model_validate_json((tmp_path / "forced" / FILE).read_text())
    assert "warm_start.force was set" in report.warnings[0]


RECIPE = """
from pathlib import Path
from tests.train.runs import small_run
from tests.train.test_warm_start import new_run

def warm():
    return new_run(Path({old!r}), Path({log!r}))

def cold():
    return small_run(Path({log!r}))
"""


def test_a_dry_run_prints_and_writes_nothing(old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = small_log(tmp_path / "log", seed=2)
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE.format(old=str(old), log=str(log)))
    before = sorted(tmp_path.rglob("*"))
    found = report_only(f"{recipe}:warm", ['warm_start.tables={"genre": {"optimizer_state": "reset"}}'])
    assert sorted(p for p in tmp_path.rglob("*") if "__pycache__" not in p.parts) == before
    assert found.table("genre").optimizer_state == "reset, as asked"
    out = capsys.readouterr().out
    assert "dry run" in out
    assert "row 0 (out-of-vocabulary): carried for gender, genre, item, tab" in out
    with pytest.raises(ConfigError, match=r"recipe.py:cold has no warm start; set Run.warm_start"):
        report_only(f"{recipe}:cold", [])


def test_tables_of_other_widths_are_projected(old: Path, tmp_path: Path) -> None:
    log = small_log(tmp_path / "log", seed=2)
    wide = {table: TableWarmStart(dim="project") for table in TABLES}
    run = new_run(old, log, tables=wide)
    run = run.model_copy(update={"embedding": run.embedding.model_copy(update={"dim": 16})})
    with open_group("cpu") as group:
        before = tables_of(RunFolder(old / "run").load_run(), group, old / "run")["item"]
        after = tables_of(run, group)["item"]
    theirs = {text: row for row, text in enumerate(order_of("item", 1), start=1)}
    rows = [theirs[text] for text in order_of("item", 2)]
    np.testing.assert_allclose(after[1:] @ after[1:].T, before[rows] @ before[rows].T, rtol=0, atol=1e-5)


def test_tables_that_begin_again_go_back_to_the_warm_start_with_its_optimizer_state(old: Path, tmp_path: Path) -> None:
    run = new_run(old, small_log(tmp_path / "log", seed=2))
    with open_group("cpu") as group:
        built = build(run, group)
        assert run.warm_start is not None
        fill_tables(run.warm_start, built)
        began = state_of(built)
        trainer = Trainer(run, RunFolder(tmp_path / "run"), built)
        for batch in built.reader("train", run.train.seed).batches(0):
            trainer.stepper.step(batch, 1.0)
        trained = state_of(built)
        names = begin_again(built, Restart(min_rows=20))
        again = state_of(built)
    assert 0 < len(names) < len(built.spec.tables)
    for key, value in again.items():
        assert not np.array_equal(trained[key], began[key]), f"{key} was not trained"
        assert np.array_equal(value, began[key] if key[0] in names else trained[key]), key
    assert any(kind == "state" and began[name, kind].any() for name, kind in again if name in names)


def state_of(built: Built) -> dict[tuple[str, str], np.ndarray]:
    """Weights and optimizer state by table."""
    parallel = built.parallel
    found = {(s.table, "weight"): s.weight.numpy().copy() for s in local_shards(parallel.model)}
    for path, entry in parallel.fused_optimizer.state_dict()["state"].items():
        (value,) = _pieces(entry)
        found[table_of(path), "state"] = value.numpy().copy()
    return found
