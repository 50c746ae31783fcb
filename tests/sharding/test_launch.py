"""What is read from the launcher before torch is there, and that a failure reaches torchrun's error file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ctr_rec.errors import DataError
from ctr_rec.sharding.launch import launched_rank, leave_sentence, rank_environment, recorded, under_torchrun


def test_rank_without_launcher_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert launched_rank() == 0
    monkeypatch.setenv("RANK", "3")
    assert launched_rank() == 3
    monkeypatch.setenv("RANK", "three")
    assert launched_rank() == 0


def test_without_torchrun_the_function_just_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert not under_torchrun()
    assert recorded(lambda: 3) == 3


def test_under_torchrun_the_failure_is_written_for_the_agent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    assert recorded(lambda: 4) == 4

    def fail() -> int:
        raise DataError("row 7 is cut short")

    with pytest.raises(DataError):
        recorded(fail)
    assert "row 7 is cut short" in json.dumps(json.loads(file.read_text()))


def test_a_sentence_replaces_the_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    file = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    leave_sentence(DataError("row 7"))
    assert not file.exists()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    leave_sentence(DataError("row 7"))
    failure = ProcessFailure(local_rank=0, pid=1, exitcode=2, error_file=str(file))
    assert failure.message["message"] == "DataError: row 7"
    assert failure.timestamp > 0


def test_a_started_rank_knows_its_place() -> None:
    place = rank_environment(1, 2)
    assert place["RANK"] == place["LOCAL_RANK"] == "1"
    assert place["WORLD_SIZE"] == place["LOCAL_WORLD_SIZE"] == "2"
    assert all(isinstance(v, str) for v in place.values())
