"""A bar on a terminal, one line per interval elsewhere, nothing when quiet."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from ctr_rec.prepare.progress import Progress


@pytest.mark.parametrize(("terminal", "words"), [(False, "read: 5 in"), (True, "read")])
def test_a_stage_says_how_far_it_is(terminal: bool, words: str) -> None:
    out = io.StringIO()
    with Progress(Console(file=out, force_terminal=terminal, width=80)).stage("read", 5) as advance:
        advance(2)
        advance(3)
    assert words in out.getvalue()


def test_lines_come_once_per_interval() -> None:
    out = io.StringIO()
    with Progress(Console(file=out, width=80), interval=0.0).stage("read", 5) as advance:
        advance(2)
    assert "read: 2 of 5" in out.getvalue()


def test_quiet_says_nothing_and_an_error_passes_through(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with Progress(quiet=True).stage("read", 5) as advance:
            advance(1)
            raise KeyError("x")

    with pytest.raises(KeyError):
        work()
    assert capsys.readouterr() == ("", "")
