from __future__ import annotations

import pytest
from pydantic import ValidationError

from ctr_rec.checkpoint.warm_start.config import Buckets, HashedIds, MapIds, TableWarmStart, VocabularyIds, WarmStart
from ctr_rec.config import from_json


def test_a_warm_start_survives_json() -> None:
    config = WarmStart(
        source="runs/old",
        tables={
            "item": TableWarmStart(ids=MapIds(path="m.parquet", source_ids=HashedIds(rows=9)), dim="project"),
            "genre": TableWarmStart(ids=VocabularyIds(path="v"), new_rows="bucket", buckets=Buckets(first=1, rows=2)),
        },
        dense={"head.weight": "over.weight"},
    )
    assert from_json(WarmStart, config.model_dump_json(), "here") == config
    assert config.of("nothing") == TableWarmStart()


def test_settings_without_effect_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"new_rows=bucket with buckets=None: new_rows=bucket needs buckets"):
        TableWarmStart(new_rows="bucket")
    with pytest.raises(ValidationError, match=r"new_rows=mean with buckets=first=1 rows=2"):
        TableWarmStart(new_rows="mean", buckets=Buckets(first=1, rows=2))
    with pytest.raises(ValidationError, match=r"new_rows=bucket with hashed ids: every id has a row there already"):
        TableWarmStart(ids=HashedIds(), new_rows="bucket", buckets=Buckets(first=1, rows=2))
    with pytest.raises(ValidationError, match=r"warm_start.skip and warm_start.tables both name item; keep one"):
        WarmStart(source="s", skip=("item",), tables={"item": TableWarmStart()})
