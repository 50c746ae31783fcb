"""The folder appears whole or not at all, and what stood there before is never lost."""

from __future__ import annotations

import errno
from pathlib import Path

import polars as pl
import pytest

from ctr_rec.errors import DataError
from ctr_rec.prepare import write
from ctr_rec.prepare.output import building, storage_errors
from tests.prepare.raws import SIMPLE_SPLIT, build, simple_raw, simple_schema


def test_the_folder_is_renamed_at_the_end(tmp_path: Path) -> None:
    with building(tmp_path / "deep" / "log", overwrite=False) as folder:
        (folder / "x").write_text("1")
        assert not (tmp_path / "deep" / "log").exists()
    assert (tmp_path / "deep" / "log" / "x").read_text() == "1"
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["log"]


def fail(out: Path, error: BaseException, overwrite: bool = True) -> None:
    with building(out, overwrite) as folder:
        (folder / "x").write_text("2")
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("x")])
def test_nothing_changes_when_building_fails(tmp_path: Path, error: BaseException) -> None:
    out = tmp_path / "log"
    out.mkdir()
    (out / "x").write_text("old")
    with pytest.raises(type(error)):
        fail(out, error)
    assert (out / "x").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["log"]


def test_a_full_folder_and_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("1")
    with pytest.raises(DataError, match="is not empty; choose another folder"):
        fail(tmp_path, RuntimeError("not reached"), overwrite=False)
    with pytest.raises(DataError, match="expected a folder to write the log to, got a file"):
        fail(tmp_path / "x", RuntimeError("not reached"))


def test_an_unwritable_parent_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("1")
    with pytest.raises(DataError, match=r"log cannot be written: \w+Error.*check the folder"):
        fail(tmp_path / "file" / "log", RuntimeError("not reached"))


def test_a_failed_swap_puts_the_old_log_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "log"
    build(simple_raw(), out, simple_schema(), SIMPLE_SPLIT)
    before = (out / "manifest.json").read_bytes()
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if ".building-" in self.name:
            raise OSError(errno.EACCES, "no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(DataError, match="cannot be written"):
        build(simple_raw(33), out, simple_schema(), SIMPLE_SPLIT, overwrite=True, partition_events=10)
    monkeypatch.undo()
    assert (out / "manifest.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["log"]


def test_a_full_disk_is_said_plainly_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(write.PartWriter, "write", full)
    with pytest.raises(DataError, match=r"log cannot be written: the disk is full.*nothing else was changed"):
        build(simple_raw(), tmp_path / "log", simple_schema(), SIMPLE_SPLIT)
    assert list(tmp_path.iterdir()) == []


def store(error: Exception) -> None:
    with storage_errors(Path("log")):
        raise error


def test_own_errors_pass_and_polars_errors_are_told() -> None:
    with pytest.raises(DataError, match=r"^mine$"):
        store(DataError("mine"))
    with pytest.raises(DataError, match="the disk is full"):
        store(pl.exceptions.ComputeError("No space left on device (os error 28)"))
