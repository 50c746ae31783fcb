from __future__ import annotations

from pathlib import Path

import pytest

from ctr_rec.errors import DataError
from ctr_rec.files import write_json
from ctr_rec.schema.periods import PERIODS, Period, Periods, load_periods, period_log

DAY = Period(name="2000-05-01", after=-1, to=9, fingerprint="a", impressions=3, events=4)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    periods = Periods(context=5, start=0, every=10, ticks_per_second=1, periods=(DAY,))
    write_json(tmp_path / PERIODS, periods.model_dump(mode="json"))
    assert load_periods(tmp_path) == periods
    assert period_log(tmp_path, DAY) == str(tmp_path / "2000-05-01")


def test_what_holds_no_periods_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no periods.json: expected the periods of a log; make them with"):
        load_periods(tmp_path)
    (tmp_path / PERIODS).write_text("{}")
    with pytest.raises(DataError, match="prepare the periods again"):
        load_periods(tmp_path)
    write_json(tmp_path / PERIODS, {"context": 1, "start": 0, "every": 1, "ticks_per_second": 1, "periods": []})
    with pytest.raises(DataError, match="expected at least one period, got none"):
        load_periods(tmp_path)
