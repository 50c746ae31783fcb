"""From a stranger's CSV to a report in four commands, without a line of Python."""

import re
from pathlib import Path

import numpy as np
import pytest

from ctr_rec.cli import main
from ctr_rec.evaluate.predictions import Predictions


def _odd_csv(path: Path) -> None:
    """Semicolons, odd names, gaps, string ids, milliseconds, and a label called something else, in words."""
    random = np.random.default_rng(11)
    favour = (0.9, 0.6, 0.3, 0.1)  # some shelves are liked by everybody
    lines = ["Member No;SKU;Stamp;Was Clicked?;Shelf;Price EUR"]
    for member in (f"m-{u:03d}" for u in range(60)):
        for n in range(40):
            shelf = int(random.integers(0, 4))
            clicked = random.random() < favour[shelf]
            stamp = 1_700_000_000_000 + n * 3_600_000 + int(random.integers(0, 3_000_000))
            price = "" if random.random() < 0.1 else f"{random.uniform(1, 90):.2f}"
            lines.append(
                f"{member};sku{shelf * 50 + random.integers(0, 50)};{stamp};{'Y' if clicked else 'N'};s{shelf};{price}"
            )
    path.write_text("\n".join(lines) + "\n")


def _ctr_rec(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == 0, arguments


def test_four_commands_from_a_csv_to_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").mkdir()
    _odd_csv(tmp_path / "raw" / "shop.csv")
    _ctr_rec("init", "raw/shop.csv", "--out", "data/shop")
    _ctr_rec("prepare", "data/shop", "--raw", "raw", "--out", "logs/shop")
    _ctr_rec("train", "data/shop/recipe.py:din", "--run-dir", "runs/shop")
    _ctr_rec("evaluate", "runs/shop", "--split", "test")
    report = (tmp_path / "runs/shop/report.html").read_text()
    assert not re.search(r'(src|href)="?https?:', report), "the report must need nothing from outside"
    predictions = Predictions.load(tmp_path / "runs/shop/predictions/test.parquet")
    # The shelf decides: a model that reads its inputs rightly is far from chance.
    positive, negative = (predictions.logit[predictions.label == value] for value in (1, 0))
    assert (positive[:, None] > negative[None, :]).mean() > 0.6
