"""The plot of blocks in both formats, for one layer and several, and without behaviours."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctr_rec.errors import ConfigError
from ctr_rec.inspect.blocks_plot import plot_blocks
from ctr_rec.metrics.bootstrap import Interval

MASKED = {"auc": {"<B, B>": {"renormalised": Interval(-0.01, -0.02, 0.0), "not renormalised": Interval(0.0, 0.0, 0.1)}}}


def test_panels_in_both_formats(tmp_path: Path) -> None:
    for ranks in ({"<B, B>": ([0.5, 0.25], 0.1), "<N, B>": ([0.5, 0.75], 0.2)}, {"<N, N>": ([0.5], 0.1)}, {}):
        files = plot_blocks(ranks, {**MASKED, "gauc": MASKED["auc"]}, tmp_path / "new")
        assert [f.name for f in files] == ["blocks.png", "blocks.svg"]
        assert files[0].read_bytes().startswith(b"\x89PNG")
        assert "<svg" in files[1].read_text()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--out .*file/plots cannot be made"):
        plot_blocks({}, {}, tmp_path / "file" / "plots")
