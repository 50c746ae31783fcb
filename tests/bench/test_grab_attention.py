"""Both forms of the attention op compute one function, and its memory and its slope are what they are called."""

from __future__ import annotations

import pytest
import torch

from ctr_rec.bench.grab_attention import (
    both_forms,
    difference,
    even_lengths,
    exponent,
    make_users,
    peak_bytes,
    skewed_lengths,
)


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("window", [3, 40])
def test_both_forms_agree(silu: bool, window: int) -> None:
    forms = both_forms(make_users([1, 17, 40, 2], window, silu))
    assert difference(forms) < 1e-4
    out = forms["ours"]()
    assert all(x.abs().sum() > 0 for x in out)
    wrong = {**forms, "dense": lambda: [x + 0.01 for x in out]}
    assert difference(wrong) > 1e-4


def test_lengths() -> None:
    even, skewed = even_lengths(8, 1024), skewed_lengths(64, 1024, 165)
    assert max(even) == max(skewed) == 1024
    assert sum(even) / (8 * 1024) == pytest.approx(0.5, abs=0.05)
    assert sum(skewed) / 64 == pytest.approx(165, rel=0.05)


def test_exponent_is_the_slope() -> None:
    assert exponent([(n, 3.0 * n**2) for n in (10, 20, 80)]) == pytest.approx(2)


def test_memory_is_that_of_a_process_of_its_own() -> None:
    """One dense mask of 4 rows, 4 heads and 400 x 400 floats takes 10 MB, whatever this process has used before."""
    used_before = torch.ones(50_000_000)
    assert peak_bytes("dense", [400] * 4, 400, runs=1) > 1e7
    assert used_before.sum() > 0
