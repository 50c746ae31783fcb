from __future__ import annotations

import errno

import pytest

from ctr_rec.checkpoint.told import explain_os_error, told
from ctr_rec.errors import CheckpointError, ConfigError
from ctr_rec.sharding.agreement import on_each, on_main
from ctr_rec.sharding.group import Group
from tests.ranks import run_ranks

FAILURES = {
    "ours": ConfigError("one sentence"),
    "disk": OSError(errno.ENOSPC, "No space left on device"),
    "plug-in": RuntimeError("the store is gone"),
}


def _fail(error: Exception) -> None:
    raise error


def _every_failure(group: Group) -> list[str]:
    said = []
    for error in FAILURES.values():
        action = told("cannot write here", lambda error=error: _fail(error) if group.index == 1 else None)
        with pytest.raises(CheckpointError) as caught:
            on_each(group, action)
        said.append(str(caught.value))
    with pytest.raises(CheckpointError) as caught:
        on_main(group, told("cannot write here", lambda: _fail(RuntimeError("on the main rank"))))
    return [*said, str(caught.value)]


def test_what_fails_on_one_rank_is_raised_on_all_in_one_sentence() -> None:
    for ours, disk, plug_in, main in run_ranks(_every_failure, 2):
        assert ours == "one sentence"
        assert "cannot write here: [Errno 28] No space left on device; free space or point --run-dir" in disk
        assert plug_in == "cannot write here: RuntimeError: the store is gone"
        assert main == "cannot write here: RuntimeError: on the main rank"


def test_an_error_without_a_remedy_is_told_as_it_is() -> None:
    assert explain_os_error(OSError(errno.EIO, "Input/output error")) == "[Errno 5] Input/output error"
    assert "choose another --run-dir or checkpoint.folder" in explain_os_error(OSError(errno.EROFS, "Read-only"))
