"""What `ctr-rec scale` calls."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_cli import run, watch


def test_the_command_line_passes_everything_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = watch(monkeypatch, "ctr_rec.scale.main", "scale", 0)
    words = ("scale", "r.py:f", "--over", "a=1,2", "--over", "b=3,4", "--set", "c=5", "--run-dir", "runs/s")
    assert run(*words, "--baseline", "r.py:mlp") == 0
    assert calls[0] == {
        "recipe": "r.py:f",
        "over": ("a=1,2", "b=3,4"),
        "together": (),
        "overrides": ("c=5",),
        "run_dir": Path("runs/s"),
        "seeds": 3,
        "baseline": "r.py:mlp",
    }
    assert run("scale", "r.py:f", "--over", "a=1,2", "--with", "b=1,2", "--seeds", "5", "--run-dir", "s") == 0
    assert (calls[1]["together"], calls[1]["seeds"], calls[1]["baseline"]) == (("b=1,2",), 5, None)
    assert run("scale", "r.py:f", "--run-dir", "s") == 2
