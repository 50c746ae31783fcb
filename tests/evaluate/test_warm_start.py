"""`verify` sees what is right, and what is wrong on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ctr_rec.checkpoint.warm_start import apply
from ctr_rec.checkpoint.warm_start.fill import fill
from ctr_rec.errors import ConfigError
from ctr_rec.evaluate.warm_start import verify
from ctr_rec.sharding.group import open_group
from ctr_rec.train.folder import RunFolder
from ctr_rec.train.main import fit
from tests.train.runs import small_run
from tests.train.test_warm_start import RECIPE, new_run, small_log


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, a log in another order, and a recipe of a warm start."""
    root = tmp_path_factory.mktemp("verify")
    with open_group("cpu") as group:
        fit(small_run(small_log(root / "log", seed=1), epochs=1), RunFolder(root / "run"), group, resume=False)
        log = small_log(root / "new-log", seed=2)
        fit(new_run(root, log), RunFolder(root / "new"), group, resume=False)
    (root / "recipe.py").write_text(RECIPE.format(old=str(root), log=str(log)))
    return root


@pytest.mark.parametrize("target", ["recipe.py:warm", "new"])
def test_a_right_warm_start_differs_nowhere(root: Path, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    check = verify(str(root / target), [])
    assert (check.vector, check.logit, check.ne - check.straight_ne) == (0, 0, 0)
    assert check.impressions > 10
    assert {t.table for t in check.tables} == {"gender", "genre", "item", "tab"}
    assert all(t.compared in (t.rows, t.rows - 1) for t in check.tables)  # row 0 has no id
    out = capsys.readouterr().out
    assert "largest difference of a looked-up vector 0, of a logit 0; ne " in out
    assert "(change +0)" in out


def test_other_widths_agree_up_to_rounding(root: Path) -> None:
    tables = ", ".join(f'"{t}": {{"dim": "project"}}' for t in ("gender", "genre", "item", "tab"))
    check = verify(str(root / "recipe.py:warm"), ["embedding.dim=16", f"warm_start.tables={{{tables}}}"])
    assert 0 <= check.vector < 1e-6
    assert check.logit < 1e-5


def test_rows_copied_by_position_are_seen(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def by_position(shards, pairs, reader, change, name) -> None:  # type: ignore[no-untyped-def]
        fill(shards, pairs, reader, change, name)
        for shard in shards:
            shard.weight[1:].copy_(torch.roll(shard.weight[1:], 1, dims=0))

    monkeypatch.setattr(apply, "fill", by_position)
    check = verify(str(root / "recipe.py:warm"), [])
    assert all(t.largest > 0 for t in check.tables if t.table != "gender")
    assert check.vector > 1e-3
    assert check.logit > 0
    assert check.ne != check.straight_ne


def test_a_run_without_a_warm_start(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"run has no warm start; set Run.warm_start=WarmStart"):
        verify(str(root / "run"), [])
