"""The manifest survives its file, and refuses one of another shape."""

from __future__ import annotations

import json

import pytest

from ctr_rec.config import from_json
from ctr_rec.errors import ConfigError
from ctr_rec.schema.log import Split
from ctr_rec.schema.manifest import LogManifest, NumberInfo, RowGroup, SourceFile, TableInfo
from tests.schema.test_log import schema


def manifest(**tables: int) -> LogManifest:
    """A manifest of the toy schema; `tables` gives rows by table, `item` 10 unless said otherwise."""
    rows = {"item": 10, **tables}
    return LogManifest(
        fingerprint="f",
        data_schema=schema(),
        split=Split(train_end=1, valid_end=2),
        tables={name: TableInfo(rows=n, ids=n, out_of_vocabulary_share=0.1) for name, n in rows.items()},
        numbers={"dwell": NumberInfo(mean=0.5, std=2.0)},
        row_groups=(RowGroup(file="a", index=0, users=1, events=3, first_event=0, impressions=(1, 1, 0)),),
        users=1,
        items=2,
        events=3,
        impressions=(1, 1, 0),
        positives={"clicked": (1, 0, 0)},
        time_range=(0, 3),
        sources=(SourceFile(name="raw.csv", bytes=7, sha256="ab"),),
        notes=("n",),
    )


def test_it_survives_its_file() -> None:
    assert from_json(LogManifest, manifest().model_dump_json(), "manifest.json") == manifest()


def test_a_missing_and_an_unknown_entry_are_named() -> None:
    content = json.loads(manifest().model_dump_json())
    del content["users"]
    with pytest.raises(ConfigError, match=r"^a/manifest\.json: users: field required"):
        from_json(LogManifest, json.dumps(content), "a/manifest.json")
    with pytest.raises(ConfigError, match="kind: extra inputs are not permitted"):
        from_json(LogManifest, json.dumps({**content, "users": 1, "kind": 2}), "a/manifest.json")
