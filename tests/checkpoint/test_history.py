from __future__ import annotations

from pathlib import Path

import pytest

from ctr_rec.checkpoint.history import (
    best,
    best_record,
    checkpoint_folder,
    clean,
    committed,
    find,
    latest,
    mark_best,
    root,
)
from ctr_rec.checkpoint.manifest import MANIFEST, Manifest, write_manifest
from ctr_rec.errors import CheckpointError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Checkpoints at 10 to 50, the last one torn."""
    for step in (10, 20, 30, 40, 50):
        folder = checkpoint_folder(tmp_path, step)
        folder.mkdir(parents=True)
        (folder / "__0_0.distcp").write_text("data")
        if step < 50:
            write_manifest(folder, Manifest(step=step))
    (tmp_path / "checkpoints" / "step-notes").mkdir()
    return tmp_path


def steps(run: Path) -> list[int]:
    return [step for step, _ in committed(run)]


def test_a_torn_checkpoint_does_not_count(run: Path) -> None:
    assert steps(run) == [10, 20, 30, 40]
    assert latest(run).name == "step-00000040"


def test_best_and_last_stay_and_what_is_torn_goes(run: Path) -> None:
    mark_best(run, 20, "auc", 0.7)
    gone = clean(run, keep_last=1)
    assert steps(run) == [20, 40]
    assert [p.name for p in gone] == ["step-00000010", "step-00000030", "step-00000050"]
    assert (run / "checkpoints" / "step-notes").exists()
    record = best_record(run)
    assert record is not None
    assert (record.step, record.metric, record.value) == (20, "auc", 0.7)


def test_removal_cut_short_leaves_nothing_that_looks_whole(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", cut)
    with pytest.raises(KeyboardInterrupt):
        clean(run, keep_last=1)
    assert checkpoint_folder(run, 10).exists()
    assert not (checkpoint_folder(run, 10) / MANIFEST).exists()
    assert 10 not in steps(run)


def test_finding_by_name(run: Path) -> None:
    mark_best(run, 30, "auc", 0.7)
    assert find(run, "last") == checkpoint_folder(run, 40)
    assert find(run, "best") == best(run) == checkpoint_folder(run, 30)
    assert find(run, "step-10") == checkpoint_folder(run, 10)
    with pytest.raises(CheckpointError, match=r"no checkpoint 'step-50'; it has: best, last, step-10, step-20"):
        find(run, "step-50")


def test_nothing_to_find(tmp_path: Path, run: Path) -> None:
    with pytest.raises(CheckpointError, match="has no whole checkpoint"):
        latest(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="no best checkpoint: none was validated yet; use the last"):
        best(run)
    mark_best(run, 50, "auc", 0.7)
    with pytest.raises(CheckpointError, match="step-00000050 is gone"):
        best(run)


def test_a_mark_that_cannot_be_read_is_named_with_the_remedy(run: Path) -> None:
    for content in ("{", '{"step": "x"}'):
        (run / "checkpoints" / "best.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"best.json cannot be read as the mark of the best.*remove it"):
            find(run, "best")


def test_checkpoints_lie_where_the_config_says(run: Path, tmp_path: Path) -> None:
    assert root(run) == run / "checkpoints"
    (run / "config.json").write_text('{"checkpoint": {"folder": null}}')
    assert root(run) == run / "checkpoints"
    (run / "config.json").write_text('{"checkpoint": {"folder": "elsewhere/a"}}')
    assert root(run) == Path("elsewhere/a")
    (run / "config.json").write_text("cut sh")
    assert root(run) == run / "checkpoints"


def test_at_least_one_stays(run: Path) -> None:
    with pytest.raises(AssertionError, match="at least one"):
        clean(run, keep_last=0)
