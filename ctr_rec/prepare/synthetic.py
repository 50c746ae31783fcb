"""The synthetic log as raw files, as a prepared log, and the best metrics that any model can reach on it.

A raw folder holds `config.json`, `events.parquet`, `items.parquet`, `users.parquet` where users have a feature, and
`truth.parquet`: the click probability of every impression by (user_id, item_id, time). The truth also lies beside the
prepared log, in a file that no reader opens.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ctr_rec.batch.planted import ACTIONS, CLICK, DAY, END, LIKE, SyntheticConfig, make_world
from ctr_rec.batch.planted_content import stored_content
from ctr_rec.batch.synthetic import Events, chunks
from ctr_rec.config import from_json
from ctr_rec.errors import ConfigError, DataError
from ctr_rec.files import is_file, join_path, local_file
from ctr_rec.metrics.mergeable import MetricDict, all_metrics
from ctr_rec.prepare.build import prepare_log
from ctr_rec.prepare.progress import Progress
from ctr_rec.prepare.raw import RawLog
from ctr_rec.prepare.recipe import DataRecipe
from ctr_rec.prepare.write import write_table
from ctr_rec.schema.log import Feature, Kind, LogSchema, Side, Split, Vocabulary
from ctr_rec.schema.manifest import SPLITS, LogManifest, load_manifest

CONFIG, EVENTS, TRUTH = "config.json", "events.parquet", "truth.parquet"
ITEMS, USERS = "items.parquet", "users.parquet"
LABEL = "clicked"
# The last four days: two to validate on, two to test on. With 20 days that is 80, 10 and 10 per cent.
SPLIT = Split(train_end=END - 4 * DAY - 1, valid_end=END - 2 * DAY - 1)


def log_schema(config: SyntheticConfig) -> LogSchema:
    """What the columns mean, which the settings decide.

    An item has an id, a group and a content vector; a user has a history, and a favourite group in logs that plant its
    effect;
    a request and every past event has a scene, where the log has scenes.
    """
    favourite = Feature(name="favourite", kind=Kind.CATEGORY, side=Side.USER, table="favourite")
    scene = Feature(name="scene", kind=Kind.CATEGORY, side=Side.EVENT, table="scene")
    more = (*((favourite,) if config.effects.profile else ()), *((scene,) if config.scenes else ()))
    return LogSchema(
        name="synthetic",
        action_delay=config.action_delay,
        actions=ACTIONS,
        labels=(LABEL,),
        features=(
            Feature(name="item", kind=Kind.CATEGORY, side=Side.ITEM, table="item"),
            Feature(name="group", kind=Kind.CATEGORY, side=Side.ITEM, table="group"),
            Feature(name="content", kind=Kind.VECTOR, side=Side.ITEM, dim=config.content_dim),
            *more,
        ),
        vocabularies=tuple(Vocabulary(table=name) for name in ("item", "group", *(f.name for f in more))),
    )


def write_raw(config: SyntheticConfig, folder: Path) -> RawLog:
    """Generates the raw files in `folder`, unless those of the same config are there. Memory: one chunk of users."""
    stamp = folder / CONFIG
    text = config.model_dump_json(indent=1) + "\n"
    sides = (ITEMS, USERS) if config.effects.profile else (ITEMS,)
    written = [folder / name for name in (EVENTS, *sides, TRUTH)]
    if not (all(p.is_file() for p in written) and stamp.is_file() and stamp.read_text(encoding="utf-8") == text):
        folder.mkdir(parents=True, exist_ok=True)
        stamp.unlink(missing_ok=True)
        _generate(config, folder)
        stamp.write_text(text, encoding="utf-8")
    return RawLog(
        events=pl.scan_parquet(folder / EVENTS),
        users=pl.scan_parquet(folder / USERS) if USERS in sides else None,
        items=pl.scan_parquet(folder / ITEMS),
        sources=(stamp, folder / EVENTS, *(folder / name for name in sides)),
        beside=(folder / TRUTH,),
    )


def read_raw(raw: Path) -> tuple[SyntheticConfig, RawLog]:
    """The log that a JSON file or a folder asks for, made where it is not there yet.

    raw: a JSON file of `SyntheticConfig`, whose raw files live as long as this process; or a folder that keeps them,
    with the settings in its config.json (the defaults without one).

    Raises:
        ConfigError: the file is no JSON of a `SyntheticConfig`, or asks for something impossible.
    """
    config = read_settings(raw)
    return config, write_raw(config, raw if raw.is_dir() else _passing_folder())


def read_settings(raw: Path) -> SyntheticConfig:
    """The settings alone. Parameter and errors: see `read_raw`."""
    source = raw / CONFIG if raw.is_dir() else raw
    text = source.read_text(encoding="utf-8") if source.is_file() else "{}"
    return from_json(SyntheticConfig, text, str(source))


def _passing_folder() -> Path:
    """A temporary folder that is removed when the process ends; the log is read lazily, so not earlier."""
    folder = Path(tempfile.mkdtemp(prefix="ctr-rec-synthetic-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def write_log(config: SyntheticConfig, raw: Path, out: Path, split: Split = SPLIT) -> LogManifest:
    """Raw files in `raw`, prepared log in `out`, without a word on the terminal."""
    recipe = DataRecipe(Path("synthetic"), log_schema(config), {"default": split}, lambda path: write_raw(config, path))
    raw.mkdir(parents=True, exist_ok=True)
    manifest, _ = prepare_log(recipe, raw, out, split, progress=Progress(quiet=True))
    return manifest


def best_metrics(log: str | Path, split: str = "test") -> MetricDict:
    """Every metric of the true click probabilities on a split: what no model can beat but by luck.

    Raises:
        DataError: the log has no truth beside it, or one that is not its own. ConfigError: no such split.
    """
    if split not in SPLITS:
        raise ConfigError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    rows = true_probabilities(log, split)
    return all_metrics(rows["label"].to_numpy(), rows["p"].to_numpy(), rows["user"].to_numpy(), "probability")


def true_probabilities(log: str | Path, split: str | None = None) -> pl.DataFrame:
    """`impression` (its id), `user` and `item` (numbers), `split`, `label` and the true `p`, in stored order.

    split: only these impressions; None for all, those of no split ("history") included.

    Raises:
        DataError: the log has no truth beside it, or one that is not its own.
    """
    path = join_path(log, TRUTH)
    if not is_file(path):
        raise DataError(
            f"{log}: expected {TRUTH} beside the log, found none; only logs of the synthetic generator know their "
            "click probabilities: ctr-rec prepare data/synthetic"
        )
    manifest = load_manifest(log)
    rows = _impressions(str(log), manifest, split).join(
        pl.read_parquet(local_file(path)), on=["user_id", "item_id", "time"], how="left", maintain_order="left"
    )
    unknown = rows.filter(pl.col("p").is_null())
    if unknown.height:
        raise DataError(
            f"{path}: {unknown.height} of {rows.height} impressions of {log} have no probability there, the first is "
            f"impression {unknown['impression'][0]}; the file belongs to another log: prepare this one again"
        )
    return rows.drop("user_id", "item_id", "time")


def _impressions(log: str, manifest: LogManifest, split: str | None) -> pl.DataFrame:
    """Read part by part, so that memory holds the impressions of the split and one part."""
    items = pl.read_parquet(local_file(join_path(log, "items", ITEMS)), columns=["item_id"]).with_row_index("item")
    items = items.with_columns(pl.col("item").cast(pl.Int32))
    columns = ["time", "request_time", "item", "impression", f"label_{LABEL}"]
    number = manifest.split.number(pl.col("request_time"))
    part = number.replace_strict({-1: "history", **dict(enumerate(SPLITS))}, return_dtype=pl.String)
    wanted = pl.col("impression") & (pl.lit(True) if split is None else part == split)
    found, first = [], 0
    for name in dict.fromkeys(group.file for group in manifest.row_groups):
        events = pl.read_parquet(local_file(join_path(log, name)), columns=["user", *columns])
        users = pl.read_parquet(local_file(join_path(log, name.replace("events/", "users/"))), columns=["user_id"])
        flat = events.hstack(users).explode(columns)
        number = pl.int_range(first, first + flat.height, dtype=pl.Int64).alias("id")
        found.append(flat.with_columns(number, part.alias("split")).filter(wanted))
        first += flat.height
    rows = pl.concat(found).join(items, on="item", how="left", maintain_order="left")
    label = pl.col(f"label_{LABEL}").alias("label")
    return rows.select(pl.col("id").alias("impression"), "user", "item", "split", label, "user_id", "item_id", "time")


def _generate(config: SyntheticConfig, folder: Path) -> None:
    world = make_world(config)
    content = stored_content(config, config.seed, world.content).astype(np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(content.reshape(-1)), config.content_dim)
    number = pa.array(np.arange(config.items))
    write_table(
        folder / ITEMS,
        pa.table({"item_id": number, "item": number, "group": pa.array(world.group), "content": vectors}),
    )
    if config.effects.profile:
        users = {"user_id": np.arange(config.users), "favourite": world.favourite}
        write_table(folder / USERS, pa.table({name: pa.array(values) for name, values in users.items()}))
    event_file: pq.ParquetWriter | None = None
    truth_file: pq.ParquetWriter | None = None
    try:
        for chunk in chunks(config):
            events, truth = _tables(chunk, config.scenes > 0)
            event_file = event_file or pq.ParquetWriter(folder / EVENTS, events.schema, compression="zstd")
            truth_file = truth_file or pq.ParquetWriter(folder / TRUTH, truth.schema, compression="zstd")
            event_file.write_table(events)
            truth_file.write_table(truth)
    finally:
        for file in (event_file, truth_file):
            if file is not None:
                file.close()


def _tables(chunk: Events, scenes: bool) -> tuple[pa.Table, pa.Table]:
    shown = chunk.request >= 0
    events = {
        "user_id": pa.array(chunk.user),
        "item_id": pa.array(chunk.item),
        "time": pa.array(chunk.time),
        "request": pa.array(chunk.request, mask=~shown),
        "impression": pa.array(shown),
        "action": pa.array(chunk.action.astype(np.int16)),
        f"label_{LABEL}": pa.array(np.isin(chunk.action, (CLICK, LIKE)).astype(np.int8), mask=~shown),
    }
    events |= {"scene": pa.array(chunk.scene)} if scenes else {}
    truth = {"user_id": chunk.user[shown], "item_id": chunk.item[shown], "time": chunk.time[shown], "p": chunk.p[shown]}
    return pa.table(events), pa.table({name: pa.array(values) for name, values in truth.items()})
