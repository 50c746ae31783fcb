from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from ctr_rec.scale.curve import AXES, draw, fit_family
from ctr_rec.scale.report import Scaled, write
from tests.scale.curves import family


def made(signals: list[float], over_baseline: bool) -> Scaled:
    named, points = family(signals, seeds=2)
    (beside,), (other,) = family([0.4], seeds=2)
    drawn = draw(named, beside if over_baseline else {}, draws=30)
    fits = [fit_family(points, other.gauc if over_baseline else (), drawn, axis) for axis in AXES]
    facts = {"log": "logs/toy", "seeds": 2}
    return Scaled({"tower.layers": points}, {"tower.layers": fits}, other if over_baseline else None, facts)


def said(scaled: Scaled, folder: Path) -> str:
    out = io.StringIO()
    write(scaled, folder, Console(file=out, width=120))
    return out.getvalue()


def test_everything_is_written_and_the_table_is_printed(tmp_path: Path) -> None:
    scaled = made([0.6, 1.0, 1.5], over_baseline=True)
    text = said(scaled, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"scale.json", "scale.md", "scale.png", "scale.svg"}
    found = json.loads((tmp_path / "scale.json").read_text())
    assert found["reference_gauc"] == scaled.reference
    first = found["families"]["tower.layers"]["fits"][0]
    assert (first["axis"], first["unit"]) == ("P", "millions of dense parameters")
    assert set(first["both"]) == {"value", "low", "high"}
    assert len(found["families"]["tower.layers"]["sizes"]) == 3
    markdown = (tmp_path / "scale.md").read_text()
    gained = 100 * (sum(scaled.points["tower.layers"][0].gauc) / 2 / scaled.reference - 1)
    for shown in (text, markdown):
        assert f"{gained:+.3f}" in shown
        assert "tower.layers=3" in shown
        assert "Gains are over tower.layers=1 (GAUC" in shown, "what the toy's baseline is called"
    assert "| log" not in markdown
    assert "- log: logs/toy" in markdown


def test_without_a_baseline_and_without_a_fit_it_says_so(tmp_path: Path) -> None:
    text = said(made([0.6, 1.0], over_baseline=False), tmp_path)
    assert "Gains are over chance (GAUC 0.5), since no --baseline was given" in text
    assert " ".join(text.split()).count("has 2 different value(s)") == 2
    (fit, _) = json.loads((tmp_path / "scale.json").read_text())["families"]["tower.layers"]["fits"]
    assert (fit["law"], fit["both"]) == (None, None)
