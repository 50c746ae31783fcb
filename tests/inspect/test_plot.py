from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ctr_rec.checkpoint.row_statistics import RowStatistics
from ctr_rec.errors import ConfigError
from ctr_rec.inspect.plot import plot_row_norms


def test_a_panel_per_table_in_both_formats(tmp_path: Path) -> None:
    full, empty = RowStatistics(), RowStatistics()
    full.add(0, torch.randn(200, 8), [torch.arange(200)])
    tables = {f"a.{name}.weight": (name, s) for name, s in (("item", full), ("word", empty), ("c", full), ("d", full))}
    files = plot_row_norms(tables, tmp_path / "new" / "plots")
    assert [f.name for f in files] == ["row_norms.png", "row_norms.svg"]
    assert files[0].read_bytes().startswith(b"\x89PNG")
    assert "<svg" in files[1].read_text()
    assert plot_row_norms({}, tmp_path) == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--out .*file/plots cannot be made"):
        plot_row_norms({"a": ("a", RowStatistics())}, tmp_path / "file" / "plots")
