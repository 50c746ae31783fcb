"""`ctr-rec init`: looks at a log, guesses what its columns mean, and writes a recipe that can be edited."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from ctr_rec.config import Config
from ctr_rec.errors import DataError
from ctr_rec.prepare.flat import FlatColumns, cell_text, cell_time, late_shares, read_flat_events
from ctr_rec.prepare.kinds import Column, feature_columns
from ctr_rec.prepare.profile import Table, profile
from ctr_rec.prepare.roles import Roles, find_roles, time_unit
from ctr_rec.schema.log import Counter, Feature, Kind, LogSchema, Side, Split, Vocabulary

RARE = 2  # smallest count of an item or of a category with many values
MANY_VALUES = 100
STEPS_PER_EPOCH = 40
MANY_IMPRESSIONS = 200_000
LONGEST_CONTEXT = 512
FILES = ("schema.py", "build.py", "README.md", "recipe.py")


@dataclass(frozen=True)
class Guess:
    """What `init` made of a log: roles, columns, the schema, the column map of the reader, and a split."""

    path: Path
    name: str
    rows: int
    roles: Roles
    columns: tuple[Column, ...]
    schema: LogSchema
    map: FlatColumns
    split: Split
    notes: tuple[str, ...]


def guess(path: Path, overrides: dict[str, str]) -> Guess:
    """Looks at a CSV or Parquet table with one row per event.

    overrides: columns named by the user, for the roles user, item, time and label.

    Raises:
        DataError: the file is no such table, or a role has no column. ConfigError: an override that is not there.
    """
    table = profile(path)
    roles = find_roles(table, overrides)
    columns = feature_columns(table, roles)
    name = re.sub(r"[^0-9a-z]+", "_", path.name.split(".")[0].lower()).strip("_") or "log"
    unit, flat = _map(table, roles, columns)
    schema = _schema(table, name, roles, columns, unit)
    split, notes = _split(path, flat, schema, table.rows)
    notes += _late(columns, late_shares(path, flat, schema, split))
    return Guess(path, name, table.rows, roles, tuple(columns), schema, flat, split, notes)


def _late(columns: list[Column], shares: dict[str, float]) -> tuple[str, ...]:
    """A sentence per attribute that is first known after the training range for some."""
    return tuple(
        f"column {c.column!r}: {shares[f.name]:.1%} of the {f.side.value}s that have a value get it only after the "
        "training range, where it may tell what they did; it counts as missing for them"
        for c in columns
        for f in c.features
        if f.name in shares
    )


def _map(table: Table, roles: Roles, columns: list[Column]) -> tuple[str, FlatColumns]:
    """The schema's time unit, and which column is what."""
    unit, divisor, pattern = _time(table, roles)
    values = roles.label_values
    return unit, FlatColumns(
        file=table.path.name,
        separator=table.separator,
        decimal_comma=table.decimal_comma,
        user=roles.user,
        item=roles.item,
        time=roles.time,
        time_format=pattern,
        time_divisor=divisor,
        request=roles.request,
        label=roles.label,
        positive=values.positive,
        negative=values.negative,
        at_least=values.at_least,
        action=roles.action,
        features={"item": roles.item}
        | {c.features[0].name: c.column for c in columns if c.features and c.features[0].name != c.column},
        lists={c.features[0].name: c.list_separator for c in columns if c.list_separator is not None},
    )


def _time(table: Table, roles: Roles) -> tuple[str, int, str | None]:
    p = table.columns[roles.time]
    if p.time_format is None:
        unit, divisor, _ = time_unit(p) or ("s", 1, "")
        return unit, divisor, None
    pattern = None if p.time_format == "temporal" else p.time_format
    micros = table.sample.select(cell_time(p.name, p.dtype, pattern, 1)).to_series().drop_nulls()
    whole = bool((micros % 1_000_000 == 0).all())
    return ("s", 1_000_000, pattern) if whole else ("ms", 1_000, pattern)


def _schema(table: Table, name: str, roles: Roles, columns: list[Column], unit: str) -> LogSchema:
    label = _identifier(roles.label)
    features = [Feature(name="item", kind=Kind.CATEGORY, side=Side.ITEM, table="item")]
    features += [f for c in columns for f in c.features]
    distinct = {f.name: table.columns[c.column].distinct for c in columns for f in c.features}
    vocabularies = [
        Vocabulary(table=f.table, min_count=RARE if distinct.get(f.name, MANY_VALUES) >= MANY_VALUES else 1)
        for f in features
        if f.table is not None
    ]
    taken = {f.name for f in features}
    counters = [(f"{by}_{label}_so_far", by) for by in ("item", "user")]
    return LogSchema(
        name=name,
        time_unit=unit,
        features=tuple(features),
        vocabularies=tuple(vocabularies),
        actions=_actions(table, roles),
        labels=(label,),
        counters=tuple(Counter(name=n, by=by, label=label) for n, by in counters if n not in taken),
    )


def _actions(table: Table, roles: Roles) -> tuple[str, ...]:
    """Names by code; the last one stands for an event whose action is not told."""
    if roles.action is None:
        return ("no", "yes", "unknown")
    kind = table.columns[roles.action].dtype
    text = cell_text(roles.action, kind).alias("action")
    seen = table.scan().select(text).unique().collect(engine="streaming")["action"].drop_nulls().sort().to_list()
    return (*(a for a in seen if a != "unknown"), "unknown")


def _identifier(text: str) -> str:
    name = re.sub(r"[^0-9A-Za-z]+", "_", text).strip("_").lower() or "label"
    return f"c_{name}" if name[0].isdigit() else name


def _split(path: Path, flat: FlatColumns, schema: LogSchema, rows: int) -> tuple[Split, tuple[str, ...]]:
    """Eight, one and one tenths of the labelled events by time, at boundaries that leave no range empty.

    Also says how many of the file's `rows` are no event or have no label.
    """
    events = read_flat_events(path, flat, schema).select("time", "impression", f"label_{schema.labels[0]}")
    read = events.collect(engine="streaming")
    times = np.sort(read.filter("impression")["time"].to_numpy())
    distinct = np.unique(times)
    if len(distinct) < 3:
        raise DataError(
            f"{path}: a split by time needs at least three different times of labelled events, got {len(distinct)} "
            f"(column {flat.time!r}); name another column with --time COL"
        )
    train = int(np.searchsorted(distinct, times[int(len(times) * 0.8)]))
    train = min(max(train - 1, 0), len(distinct) - 3)
    valid = int(np.searchsorted(distinct, times[int(len(times) * 0.9)]))
    valid = min(max(valid - 1, train + 1), len(distinct) - 2)
    counts = {
        f"rows have no readable {flat.user}, {flat.item} or {flat.time} and are left out": rows - read.height,
        "rows have no label and are history only": int((~read["impression"]).sum()),
    }
    notes = tuple(f"{count:,} {what}" for what, count in counts.items() if count)
    return Split(train_end=int(distinct[train]), valid_end=int(distinct[valid])), notes


def write(found: Guess, out: Path, console: Console | None = None) -> None:
    """Prints what was guessed and why, and writes schema.py, build.py, README.md and recipe.py into `out`.

    Raises:
        DataError: `out` holds one of these files already, which is not touched, or it cannot be made.
    """
    there = [name for name in FILES if (out / name).exists()]
    if there:
        raise DataError(f"{out} holds {', '.join(there)} already; choose another folder with --out, or remove it first")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror}; choose another folder with --out") from error
    commands = _commands(found, out)
    for name in FILES[:3]:
        text = _environment().get_template(f"{name}.jinja").render(g=found, commands=commands)
        (out / name).write_text(text, encoding="utf-8")
    write_recipe(out, found.name, found.schema.labels[0], found.rows)
    _print(found, out, console or Console())


def write_recipe(folder: Path, log: str, label: str, impressions: int) -> Path:
    """Writes `recipe.py`, the run recipes for a prepared log, and returns its path.

    log: name below logs/. impressions: of the whole log; batches are cut so that an epoch has about 40 or more, and a
    small log is read more often.
    """
    batch = 2 ** int(np.clip(np.log2(max(impressions, 1) / STEPS_PER_EPOCH), 6, 12))
    text = (
        _environment()
        .get_template("recipe.py.jinja")
        .render(
            log=log,
            label=label,
            folder=folder.as_posix(),
            batch=batch,
            tokens=4 * batch,
            context=min(batch, LONGEST_CONTEXT),
            epochs=3 if impressions >= MANY_IMPRESSIONS else 10,
        )
    )
    path = folder / "recipe.py"
    path.write_text(text, encoding="utf-8")
    return path


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("ctr_rec.prepare"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["python"] = _python
    environment.filters["call"] = _call
    return environment


def _python(value: object) -> str:
    """A literal of strings, numbers and tuples of them, in double quotes."""
    if isinstance(value, tuple):
        return f"({', '.join(_python(v) for v in value)}{',' if len(value) == 1 else ''})"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _call(value: Config) -> str:
    """The constructor call of a config, without the fields that have their default."""
    fields = type(value).model_fields
    said = {name: getattr(value, name) for name in fields if getattr(value, name) != fields[name].default}
    texts = [
        f"{name}={f'{type(v).__name__}.{v.name}' if isinstance(v, Enum) else _python(v)}" for name, v in said.items()
    ]
    return f"{type(value).__name__}({', '.join(texts)})"


def _commands(found: Guess, out: Path) -> list[str]:
    folder, raw, run = shlex.quote(str(out)), shlex.quote(str(found.path)), f"runs/{found.name}"
    return [
        f"ctr-rec prepare {folder} --raw {raw} --out logs/{found.name}",
        f"ctr-rec train {shlex.quote(f'{out}/recipe.py:din')} --run-dir {run}",
        f"ctr-rec evaluate {run}",
    ]


def _print(found: Guess, out: Path, console: Console) -> None:
    table = RichTable(title=f"{found.path.name}: {found.rows:,} rows")
    for header in ("column", "taken as", "why"):
        table.add_column(header, overflow="fold")
    roles = found.roles
    for role, column in roles.columns().items():
        table.add_row(escape(column), f"[bold]{role}[/]", escape(roles.reasons[role]))
    for column in found.columns:
        table.add_row(escape(column.column), column.role, escape(column.why))
    console.print(table)
    for note in found.notes:
        console.print(note, highlight=False)
    if roles.request is None:
        console.print("no request column: equal times of one user count as one request", highlight=False)
    console.print(f"time unit {found.schema.time_unit}; split {found.split.train_end}, {found.split.valid_end}")
    console.print(f"written: {', '.join(FILES)} in {out}. Look at schema.py, then:", highlight=False, soft_wrap=True)
    for command in _commands(found, out):
        console.print(f"  {command}", highlight=False, soft_wrap=True)
