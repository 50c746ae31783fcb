"""The registry of benches: listed without importing, run by name, printed as JSON lines or as a table."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ctr_rec import bench
from ctr_rec.bench.record import Emit
from ctr_rec.errors import ConfigError


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with one bench `toy` and one file that is none."""
    (tmp_path / "toy.py").write_text('"""A toy. Measures nothing."""\n\n\ndef run(emit, log):\n    pass\n')
    (tmp_path / "record.py").write_text('"""No bench."""\n')
    module = ModuleType("ctr_rec.bench.toy")

    def run(emit: Emit, log: Path | None) -> None:
        emit("toy", "small", "seconds", 0.5, "s", baseline=1.0, ratio=2.0, goal=">= 3", min=0.4, max=0.6, runs=5)
        emit("toy", "small", "log", 0.0 if log is None else 1.0, "")

    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ctr_rec.bench.toy", module)
    monkeypatch.setattr(bench, "FOLDER", tmp_path)


@pytest.mark.usefixtures("toy")
def test_listing_reads_names_and_first_sentences() -> None:
    assert bench.listing() == {"toy": "A toy. Measures nothing."}


def test_the_real_benches_are_listed() -> None:
    assert "gauc" in bench.listing()
    assert "record" not in bench.listing()


@pytest.mark.usefixtures("toy")
def test_json_has_one_object_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    bench.run("toy", True, None)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["metric"] for line in lines] == ["seconds", "log"]
    assert lines[0]["ratio"] == 2.0
    assert lines[1]["value"] == 0.0


@pytest.mark.usefixtures("toy")
def test_table_says_which_goal_was_not_met(capsys: pytest.CaptureFixture[str]) -> None:
    bench.run("toy", False, None)
    out = capsys.readouterr().out
    assert "toy | small | seconds = 0.5 s" in out
    assert ">= 3 NOT MET" in out


@pytest.mark.usefixtures("toy")
def test_unknown_bench_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="there is no bench 'toi'; there are: toy"):
        bench.run("toi", False, None)


@pytest.mark.usefixtures("toy")
def test_a_log_without_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is not a prepared log, it has no manifest\.json"):
        bench.run("toy", False, tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    assert bench.run("toy", True, tmp_path)[1].value == 1.0
