"""The JSON beside a file of vectors: what it may say, and that it may be absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctr_rec.errors import ConfigError
from ctr_rec.schema.content import ContentInfo, info_path, load_info


def test_it_lies_beside_the_file_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "look.parquet"
    assert load_info(file) is None
    assert info_path(file) == tmp_path / "look.json"
    info = ContentInfo(method="mine", model="resnet 3", trained_from=1, trained_until=5, time_unit="ms")
    info_path(file).write_text(info.model_dump_json())
    assert load_info(file) == info


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ('"trained_until": 5', "trained_until and time_unit go together"),
        ('"time_unit": "s"', "trained_until and time_unit go together"),
        ('"trained_from": 5', "trained_from 5 needs a trained_until that is not before it, got None"),
        ('"trained_from": 5, "trained_until": 4, "time_unit": "s"', "not before it, got 4"),
        ('"trained_until": 5, "time_unit": "h"', "time_unit"),
        ('"until": 5', "until"),
    ],
)
def test_what_it_cannot_mean_is_refused(tmp_path: Path, fields: str, words: str) -> None:
    (tmp_path / "look.json").write_text('{"method": "m", "model": "x", ' + fields + "}")
    with pytest.raises(ConfigError, match=r"look\.json") as caught:
        load_info(tmp_path / "look.parquet")
    assert words in str(caught.value)
