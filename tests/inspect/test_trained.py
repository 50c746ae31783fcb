"""A run or one of its checkpoints, and one process only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ctr_rec.errors import ConfigError
from ctr_rec.inspect.trained import check_alone, run_of


def test_a_path_names_a_run_or_a_checkpoint_of_one(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / "step-00000012"
    checkpoint.mkdir(parents=True)
    assert run_of(checkpoint, None) == (checkpoint, "best"), "not below a run, it is taken for one and refused later"
    (tmp_path / "config.json").touch()
    assert run_of(tmp_path, None) == (tmp_path, "best")
    assert run_of(tmp_path, "last") == (tmp_path, "last")
    assert run_of(checkpoint, None) == (tmp_path, "step-12")
    with pytest.raises(ConfigError, match=r"--checkpoint chooses one of a run, and .*step-00000012 is a checkpoint"):
        run_of(checkpoint, "best")


@dataclass
class _Ranks:
    size: int


def test_several_ranks_are_refused() -> None:
    one: Any = _Ranks(1)
    check_alone(one, "blocks")
    two: Any = _Ranks(2)
    with pytest.raises(ConfigError, match="inspect blocks runs on one process, got 2 ranks; start it without torchrun"):
        check_alone(two, "blocks")
