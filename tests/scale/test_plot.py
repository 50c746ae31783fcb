from __future__ import annotations

from pathlib import Path

from ctr_rec.scale.curve import AXES, draw, fit_family
from ctr_rec.scale.plot import draw_curves
from tests.scale.curves import family


def test_families_with_and_without_a_law_are_drawn(tmp_path: Path) -> None:
    fits, points = {}, {}
    for name, signals in (("tower.layers", [0.6, 1.0, 1.5]), ("tower.width", [0.6, 1.0])):
        named, points[name] = family(signals, seeds=2)
        drawn = draw(named, {}, draws=20)
        fits[name] = [fit_family(points[name], (), drawn, axis) for axis in AXES]
    for suffix in ("png", "svg"):
        draw_curves(fits, points, 0.5, "chance", tmp_path / f"scale.{suffix}")
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "scale.svg").read_text()
