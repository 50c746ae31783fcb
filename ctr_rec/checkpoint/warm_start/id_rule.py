"""How the rows of a source's table are known by id: what the recipe says, or what follows from the source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ctr_rec.checkpoint.warm_start.config import HashedIds, Ids, MapIds, OwnIds, WarmStart
from ctr_rec.checkpoint.warm_start.id_stream import IdStream, map_columns, map_stream, own_stream, vocabulary_stream
from ctr_rec.checkpoint.warm_start.opening import place
from ctr_rec.checkpoint.warm_start.source import Source, SourceTable
from ctr_rec.checkpoint.warm_start.target import vocabulary_file
from ctr_rec.errors import CheckpointError, DataError
from ctr_rec.schema.manifest import load_manifest


@dataclass(frozen=True)
class IdRule:
    """stream: ids with their rows; or hashed: rows and first are filled in. mapped: a map from our ids, on top of the
    other two where it names ids, alone where it names rows. no_ids: rows of the table that are no id's own.
    vocabulary: the file of a stream whose row 0, if any, is what ours is."""

    words: str
    stream: IdStream | None = None
    hashed: HashedIds | None = None
    mapped: IdStream | None = None
    no_ids: tuple[int, ...] = ()
    vocabulary: Path | None = None


def id_rule(
    ids: Ids | None, source: Source, table: SourceTable, config: WarmStart, share: tuple[int, int] = (0, 1)
) -> IdRule:
    """Raises CheckpointError where nothing says which id a row stands for, or what says so is of another table."""
    if ids is None:
        return _default(source, table, config, share)
    if isinstance(ids, MapIds):
        return _by_map(ids, source, table, config, share)
    if isinstance(ids, HashedIds):
        return _hashed(ids, table, source.path)
    if isinstance(ids, OwnIds):
        return _own(table, source)
    path = place(ids.path)
    if path.is_dir():
        return _of_log(str(path), source, table, share)
    skip = ids.out_of_vocabulary_row
    if not path.is_file():
        raise CheckpointError(f"the vocabulary {path} does not exist (looked from {Path.cwd()})")
    stream = vocabulary_stream(path, skip, table.rows, share)
    return IdRule(f"vocabulary {ids.path}", stream, no_ids=() if skip is None else (skip,), vocabulary=path)


def _default(source: Source, table: SourceTable, config: WarmStart, share: tuple[int, int]) -> IdRule:
    if table.id_files:
        return _own(table, source)
    if config.log is not None:
        return _of_log(config.log, source, table, share)
    data = source.manifest.config.get("data") if source.manifest is not None else None
    if isinstance(data, dict) and isinstance(data.get("log"), str):
        return _of_log(data["log"], source, table, share)
    raise CheckpointError(
        f"nothing says which id each row of table {table.name!r} of {source.path} stands for; set warm_start.log to "
        "the source's prepared log, or warm_start.tables.<ours>.ids to a vocabulary (id, row), the hash, or a map"
    )


def _own(table: SourceTable, source: Source) -> IdRule:
    if not table.id_files:
        raise CheckpointError(
            f"ids kind=own: table {table.name!r} of {source.path} carries no ids; only Parquet sources do"
        )
    return IdRule("the source's own ids", own_stream(table.id_files))


def _hashed(ids: HashedIds, table: SourceTable, path: str) -> IdRule:
    rows = ids.rows if ids.rows is not None else table.rows - ids.first
    if rows < 1 or ids.first + rows > table.rows:
        raise CheckpointError(
            f"ids kind=hash with rows={rows}, first={ids.first}: table {table.name!r} of {path} has {table.rows} rows; "
            f"expected first + rows of at most {table.rows}"
        )
    no_ids = (0,) if ids.first == 1 else ()
    return IdRule(f"the stated hash, {rows} rows", hashed=HashedIds(rows=rows, first=ids.first), no_ids=no_ids)


def _by_map(ids: MapIds, source: Source, table: SourceTable, config: WarmStart, share: tuple[int, int]) -> IdRule:
    path = place(ids.path)
    mapped = map_stream(path, table.rows)
    if map_columns(path) == "source_row":
        if ids.source_ids is not None:
            raise CheckpointError(f"{path} names source rows, so ids.source_ids would have no effect; remove it")
        return IdRule(f"map {ids.path}", mapped=mapped)
    below = id_rule(ids.source_ids, source, table, config, share)
    return IdRule(f"map {ids.path} to ids by {below.words}", below.stream, below.hashed, mapped, below.no_ids)


def _of_log(log: str, source: Source, table: SourceTable, share: tuple[int, int]) -> IdRule:
    try:
        manifest = load_manifest(log)
    except DataError as error:
        raise CheckpointError(
            f"the ids of {source.path} come from the prepared log {log}: {error}; set warm_start.log to where it is now"
        ) from error
    stored = source.manifest.data_fingerprint if source.manifest is not None else ""
    if stored and stored != manifest.fingerprint:
        raise CheckpointError(
            f"{source.path} was trained on data with fingerprint {stored}, {log} has {manifest.fingerprint}: its rows "
            "stand for other ids; set warm_start.log to the log of that run"
        )
    hashed = {v.table: v.hash_rows for v in manifest.data_schema.vocabularies}
    if table.name not in hashed:
        raise CheckpointError(
            f"{log} has no vocabulary of table {table.name!r}; it has {', '.join(sorted(hashed))}; set "
            "warm_start.tables.<ours>.ids"
        )
    if manifest.tables[table.name].rows != table.rows:
        raise CheckpointError(
            f"{log} has {manifest.tables[table.name].rows} rows in table {table.name!r}, {source.path} has "
            f"{table.rows}: they do not belong together; set warm_start.log to the log of that run"
        )
    buckets = hashed[table.name]
    if buckets is not None:
        rule = _hashed(HashedIds(rows=buckets), table, source.path)
        return IdRule(f"the stated hash of {log}, {buckets} rows", hashed=rule.hashed, no_ids=(0,))
    path = vocabulary_file(log, table.name)
    return IdRule(f"vocabulary of {log}", vocabulary_stream(path, 0, table.rows, share), no_ids=(0,), vocabulary=path)
