"""Several run folders in one word: in order, and refused where they are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctr_rec.errors import ConfigError
from ctr_rec.evaluate.folders import run_folders


def test_a_list_and_a_glob_keep_their_order(tmp_path: Path) -> None:
    for name in ("b-2", "b-1", "a"):
        (tmp_path / name).mkdir()
    found = run_folders(f"{tmp_path}/b-*,{tmp_path}/a")
    assert [p.name for p in found] == ["b-1", "b-2", "a"]


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run folder matches"):
        run_folders(f"{tmp_path}/x-*")
    with pytest.raises(ConfigError, match="x does not exist"):
        run_folders(f"{tmp_path}/x")
