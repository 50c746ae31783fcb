"""Heads divide a width, or are refused."""

from __future__ import annotations

import pytest

from ctr_rec.layers.heads import head_width


def test_heads_divide_the_width() -> None:
    assert head_width(3, 12) == 4
    with pytest.raises(ValueError, match=r"heads is 5 and tokens\.width 12; choose a width that heads divide"):
        head_width(5, 12)
