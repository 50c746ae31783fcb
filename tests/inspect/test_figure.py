"""Figures are written in both formats, the same bytes each time."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctr_rec.errors import ConfigError
from ctr_rec.inspect.figure import make_folder, new_figure, save_figure


def test_both_formats_and_the_same_again(tmp_path: Path) -> None:
    make_folder(tmp_path / "new")
    files = save_figure(new_figure(2, 1), tmp_path / "new", "name")
    assert [f.name for f in files] == ["name.png", "name.svg"]
    before = files[0].read_bytes()
    save_figure(new_figure(2, 1), tmp_path / "new", "name")
    assert files[0].read_bytes() == before
    assert "<dc:date>" not in files[1].read_text()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--out .*file/plots cannot be made"):
        make_folder(tmp_path / "file" / "plots")
