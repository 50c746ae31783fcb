import json
import os
from pathlib import Path

import pytest

from ctr_rec.checkpoint.manifest import Manifest, write_manifest
from ctr_rec.config import override
from ctr_rec.errors import ConfigError
from ctr_rec.train.folder import RunFolder
from ctr_rec.train.run import Run
from tests.train.runs import small_run


def test_a_new_folder_keeps_the_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a" / "b")
    folder.open(small_run(Path("log")), resume=False)
    assert folder.load_run() == small_run(Path("log"))


def test_a_filled_folder_needs_resume(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"is not empty; add --resume"):
        RunFolder(tmp_path).open(small_run(Path("log")), resume=False)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_resume_needs_a_run(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"nothing to resume in .*choose another --run-dir"):
        RunFolder(tmp_path).open(small_run(Path("log")), resume=True)


def test_resume_needs_the_same_run_and_names_what_changed(tmp_path: Path) -> None:
    folder, run = RunFolder(tmp_path), small_run(Path("log"))
    folder.open(run, resume=False)
    with pytest.raises(ConfigError, match=r"dense.lr was 0.001, is 0.5; train.seed was 1, is 9"):
        folder.open(override(run, ["train.seed=9", "dense.lr=0.5"]), resume=True)


@pytest.mark.parametrize("setting", ["sharding.optimizer.lr=0.2", "sharding.optimizer.kind=sgd"])
def test_resume_refuses_another_optimizer_of_the_tables(setting: str, tmp_path: Path) -> None:
    folder, run = RunFolder(tmp_path), small_run(Path("log"))
    folder.open(run, resume=False)
    with pytest.raises(ConfigError, match=r"changed: sharding.optimizer.(lr|kind) was"):
        folder.open(override(run, [setting]), resume=True)
    folder.open(override(run, ["sharding.memory_per_rank_gib=2", "sharding.batch_size=64"]), resume=True)


def test_resume_may_train_longer(tmp_path: Path) -> None:
    folder, run = RunFolder(tmp_path), small_run(Path("log"))
    folder.open(run, resume=False)
    folder.open(override(run, ["train.epochs=9"]), resume=True)
    assert folder.load_run().train.epochs == 9


def with_checkpoint(folder: RunFolder, run: Run) -> None:
    """A run that ended, and whose checkpoint knows tables `item` and `genre`."""
    folder.open(run, resume=False)
    folder.clean_stop.write_text("{}")
    path = folder.checkpoints / "step-00000004"
    path.mkdir(parents=True)
    write_manifest(path, Manifest(step=4, tables={"item": (40, 4), "genre": (7, 4)}))


def test_a_run_that_grows_may_read_more_and_leaves_the_folder_until_it_is_settled(tmp_path: Path) -> None:
    folder, run = RunFolder(tmp_path), small_run(Path("log"))
    with_checkpoint(folder, run)
    more = override(run, ["embedding.exclude=[]", 'embedding.tables={"tab": {"dim": 2}}', "data.log=new"])
    assert folder.open(more, resume=True, grow=True)
    assert folder.load_run() == run
    assert folder.clean_stop.exists()
    folder.settle(more)
    assert folder.load_run() == more
    assert not folder.clean_stop.exists()


def test_without_grow_the_message_names_it(tmp_path: Path) -> None:
    folder, run = RunFolder(tmp_path), small_run(Path("log"))
    with_checkpoint(folder, run)
    with pytest.raises(ConfigError, match=r"changed: embedding.exclude .*\(--grow lets a recipe have more"):
        folder.open(override(run, ["embedding.exclude=[]"]), resume=True)
    with pytest.raises(ConfigError, match=r"changed: dense.lr was 0.001, is 0.5.*start a new --run-dir$"):
        folder.open(override(run, ["dense.lr=0.5"]), resume=True)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ('embedding.tables={"item": {"dim": 8}}', r"embedding.tables.item.dim was None, is 8"),
        ("embedding.dim=8", r"embedding.dim was 4, is 8"),
        ("dense.lr=0.5", r"dense.lr was 0.001, is 0.5"),
    ],
)
def test_what_was_trained_keeps_its_settings_when_a_run_grows(setting: str, words: str, tmp_path: Path) -> None:
    folder, run = RunFolder(tmp_path), small_run(Path("log"))
    with_checkpoint(folder, run)
    with pytest.raises(ConfigError, match=words):
        folder.open(override(run, [setting]), resume=True, grow=True)


def test_a_run_without_a_checkpoint_begins_anew_with_what_it_has_now(tmp_path: Path) -> None:
    folder, run = RunFolder(tmp_path), small_run(Path("log"))
    folder.open(run, resume=False)
    again = override(run, ["data.log=new"])
    assert not folder.open(again, resume=True, grow=True)
    assert folder.load_run() == again


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="is not writable"):
        RunFolder(tmp_path).open(small_run(Path("log")), resume=False)


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"run folder .* cannot be made or read: Not a directory"):
        RunFolder(tmp_path / "file" / "run").open(small_run(Path("log")), resume=False)


def test_later_lines_and_a_line_cut_short_are_forgotten(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    folder.forget_after(2)
    assert [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()] == [1, 2]


def test_a_folder_without_config_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run folder"):
        RunFolder(tmp_path).load_run()
