"""The manifest of a prepared log: what `manifest.json` says. A folder without one is not a prepared log.

Folder layout (all Parquet, zstd):

    manifest.json
    events/part-00000.parquet   one row per user: `user` int64 (user number), and parallel list columns
                                sorted by (time, request, item):
                                  time list<int64>, request_time list<int64>, request list<int64>,
                                  item list<int32> (row of items/), impression list<bool>, action list<int16>,
                                  label_<name> list<int8> (-1 where the event is no impression),
                                  <event feature> list<int32> | list<list<int32>> | list<float32> | list<string>,
                                  <counter>_count, <counter>_rate list<float32>
    users/part-00000.parquet    same rows as events/part-00000.parquet: `user`, `user_id` (raw), profile features
    items/items.parquet         row = item number: `item_id` (raw), `first_time` (first event, log unit), attributes
    vocabulary/<table>.parquet  `id` (string), `row` int32, `count` int64 (up to the end of the training range), `hash`
                                uint64 (the id's stated hash; older logs lack it); row 0 for ids below min_count, so no
                                raw id is lost. Sorted by row, row 0 last (tables with hash_rows: by falling count)

Category columns hold table rows; the raw value is found through the vocabulary.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from ctr_rec.config import Config, from_json
from ctr_rec.errors import ConfigError, DataError
from ctr_rec.files import is_file, join_path, read_text
from ctr_rec.schema.content import ContentInfo
from ctr_rec.schema.log import LogSchema, Split

MANIFEST = "manifest.json"
SPLITS = ("train", "valid", "test")


class TableInfo(Config):
    """rows includes row 0; ids is the number of distinct raw ids seen anywhere in the log."""

    rows: int
    ids: int
    out_of_vocabulary_share: float  # of training occurrences


class NumberInfo(Config):
    """Statistics of a NUMBER on the training range, after log1p where the feature asks for it."""

    mean: float
    std: float


class RowGroup(Config):
    """Counts per Parquet row group, so that a reader can plan an epoch without opening the data.

    impressions: per split, in the order of SPLITS. first_event: number of events in all row groups before it, which
    makes `first_event + position` a unique id of an event within the log.
    """

    file: str
    index: int
    users: int
    events: int
    first_event: int
    impressions: tuple[int, int, int]


class SourceFile(Config):
    name: str
    bytes: int
    sha256: str


class ContentSource(Config):
    """The file that a log's content vectors come from. info: what lay beside it, None where nothing did.

    covered, items: how many items of the raw log it has a vector for, and how many there are.
    """

    file: SourceFile
    info: ContentInfo | None
    covered: int
    items: int


class LogManifest(Config):
    """Everything about a prepared log but its rows. `fingerprint` is a hash of content, schema and split.

    priors: mean label up to the end of the training range, which the counters' rates are smoothed with; older logs lack
    it. grown_from: fingerprints of the log whose vocabularies this one kept and extended, and of those before it,
    newest first. context: of a log that was cut to one period, how many events of a user before it were kept at most;
    None where nothing was cut. time_range: of all that was counted, cut away or not. content: of the feature `content`
    where it was joined from a file of vectors.
    """

    format: int = 1
    fingerprint: str
    data_schema: LogSchema
    split: Split
    tables: dict[str, TableInfo]
    numbers: dict[str, NumberInfo]
    row_groups: tuple[RowGroup, ...]
    users: int
    items: int
    events: int
    impressions: tuple[int, int, int]
    positives: dict[str, tuple[int, int, int]]  # per label
    time_range: tuple[int, int]
    priors: dict[str, float] = Field(default_factory=dict)
    grown_from: tuple[str, ...] = ()
    context: int | None = None
    sources: tuple[SourceFile, ...] = ()
    content: ContentSource | None = None
    notes: tuple[str, ...] = ()


def load_manifest(log: str | Path) -> LogManifest:
    """The manifest of a prepared log. Raises DataError when the folder is none, or its manifest cannot be read."""
    path = join_path(log, MANIFEST)
    if not is_file(path):
        raise DataError(f"{log} is not a prepared log: it has no {MANIFEST}; make one with `ctr-rec prepare`")
    try:
        return from_json(LogManifest, read_text(path), path)
    except ConfigError as error:
        raise DataError(f"{error}; prepare the log again") from error
