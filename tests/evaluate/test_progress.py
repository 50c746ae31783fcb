import io

import pytest
from rich.console import Console

from ctr_rec.evaluate import progress
from ctr_rec.evaluate.progress import ScoringProgress


def _said(monkeypatch: pytest.MonkeyPatch, main: bool, terminal: bool = False) -> str:
    """What is written over 60 batches of one second each."""
    clock = iter(range(1000))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    out = io.StringIO()
    with ScoringProgress("scoring test", main, Console(file=out, force_terminal=terminal, width=80)) as bar:
        for done in range(1, 61):
            bar(done, 60)
    return out.getvalue()


def test_elsewhere_a_line_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = _said(monkeypatch, main=True).splitlines()
    assert len(lines) == 6
    assert lines[0] == "scoring test: 10 of 60 batches, about 50 s left"
    assert lines[-1] == "scoring test: 60 of 60 batches, about 0 s left"


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    text = _said(monkeypatch, main=True, terminal=True)
    assert "60/60" in text
    assert "batches" not in text


def test_other_ranks_are_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _said(monkeypatch, main=False) == ""
    assert _said(monkeypatch, main=False, terminal=True) == ""
