import math
from xml.etree import ElementTree

from ctr_rec.evaluate import charts
from ctr_rec.metrics.probability import ReliabilityBin

TRAIN = {"kind": "train", "loss": 0.6, "window_auc": 0.7, "impressions_per_s": 1000.0, "data_wait_share": 0.01}


def _elements(svg: str) -> list[str]:
    return [node.tag.rpartition("}")[2] for node in ElementTree.fromstring(svg).iter()]


def _bucket(name: str, auc: float | None) -> dict[str, object]:
    return {"name": name, "impressions": 10, "metrics": {"auc": auc, "gauc": None}}


def test_drawings_are_svg_with_text_as_text() -> None:
    lines = [{**TRAIN, "step": step} for step in (10, 20)]
    valid = {"kind": "valid", "step": 20, "logloss": 0.6, "auc": 0.7, "gauc": math.nan}
    bins = [ReliabilityBin(0.1, 0.2, 50, 0.15, 0.1), ReliabilityBin(0.2, 0.4, 50, 0.3, 0.35)]
    for svg in (
        charts.curves([*lines, valid]),
        charts.throughput(lines),
        charts.bars([_bucket("0", 0.5), _bucket("1+", None)], {"auc": 0.6, "gauc": 0.5}),
        charts.reliability(bins),
    ):
        found = _elements(svg)
        assert found[0] == "svg"
        assert "text" in found
        assert "path" in found


def test_a_run_without_validation_is_drawn() -> None:
    assert "valid AUC" not in charts.curves([{**TRAIN, "step": 10}])


def test_the_same_figures_give_the_same_drawing() -> None:
    buckets = [_bucket("0", 0.5), _bucket("1+", 0.7)]
    assert charts.bars(buckets, {"auc": 0.6}) == charts.bars(buckets, {"auc": 0.6})
