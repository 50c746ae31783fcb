from __future__ import annotations

import io

from rich.console import Console

from ctr_rec.checkpoint.warm_start.dense import DenseReport
from ctr_rec.checkpoint.warm_start.report import TableReport, WarmStartReport


def test_a_report_is_printed_and_survives_json() -> None:
    item = TableReport(
        table="item",
        rows=11,
        source="items",
        ids="the stated hash",
        source_rows=20,
        matched=7,
        new=3,
        dropped=12,
        seen_matched=0.9,
        seen_new=0.1,
        seen_unknown=0.0,
        dropped_share=0.25,
        dim=8,
        dtype="float16",
        change="padded 8 to 16, float16 to float32",
        row_zero="carried",
        new_rows="mean of matched",
        optimizer_state="reset: the source has none",
    )
    alone = TableReport(table="tab", rows=5, left_alone="not in the source")
    dense = DenseReport(rule="matching", loaded={"a": "b"}, left_out={"c": "shape (1,) in the source, (2,) here"})
    report = WarmStartReport(source="src", kind="parquet", tables=(item, alone), dense=dense, warnings=("a doubt",))
    out = io.StringIO()
    report.print(Console(file=out, width=80))
    text = out.getvalue()
    for words in (
        "warm start from src (parquet)",
        "90.0%",
        "25.0%",
        "item: rows by the stated hash; vectors 8 x float16, padded 8 to 16, float16 to float32; optimizer state reset",
        "tab: left alone, not in the source",
    ):
        assert words in text
    assert "dense weights (matching): 1 taken, 1 left out\n  c: shape (1,) in the source, (2,) here" in text
    assert "warning: a doubt" in text
    assert "\u2026" not in text, "nothing is cut at 80 columns"
    assert WarmStartReport.model_validate_json(report.model_dump_json()) == report
    assert report.table("item") == item
