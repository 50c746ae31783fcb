from __future__ import annotations

from pathlib import Path

import pytest

from ctr_rec.errors import ConfigError
from ctr_rec.inspect.attention import position_groups, time_groups
from ctr_rec.inspect.attention_mass import Mass
from ctr_rec.inspect.attention_plot import plot_attention


def _mass() -> Mass:
    mass = Mass.zeros(6, 2)
    mass.position[1:] = 0.1
    mass.time[3:6] = 0.2
    mass.action[:] = 0.25
    mass.own = 0.5
    return mass


def test_a_row_of_panels_per_channel_in_both_formats(tmp_path: Path) -> None:
    layers, even = {"all": [_mass()], "none": [_mass(), _mass()]}, {"all": _mass(), "none": Mass.zeros(6, 2)}
    files = plot_attention(layers, even, ("a", "b"), position_groups, time_groups, tmp_path / "new")
    assert [f.name for f in files] == ["attention.png", "attention.svg"]
    assert files[0].read_bytes().startswith(b"\x89PNG")
    assert "<svg" in files[1].read_text()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--out .*file/plots cannot be made"):
        plot_attention({}, {}, (), position_groups, time_groups, tmp_path / "file" / "plots")
