"""Embedding tables and the features that read them, resolved from a log's manifest and a recipe's settings.

A table is declared once. Item and event features (and the candidate's, which share them) live in an embedding
*collection*: the batch carries the distinct rows each table needs, so each row moves between ranks once. User profile
features, one bag per user, live in an embedding *bag collection*.
"""

from __future__ import annotations

from pydantic import Field

from ctr_rec.config import Config
from ctr_rec.errors import ConfigError, SchemaError
from ctr_rec.schema.log import Feature, Kind, Known, Side
from ctr_rec.schema.manifest import LogManifest


class TableSettings(Config):
    """Per-table departures from the defaults of `EmbeddingSettings`; None means the default."""

    dim: int | None = Field(default=None, ge=1)
    init_std: float | None = Field(default=None, gt=0)
    learning_rate: float | None = Field(default=None, gt=0)
    sharding: str | None = Field(default=None, pattern="^(row_wise|table_wise|column_wise|data_parallel)$")


class EmbeddingSettings(Config):
    """dim: width of every table unless `tables` says otherwise. init_std: of the normal initialiser."""

    dim: int = Field(default=16, ge=1)
    init_std: float = Field(default=0.01, gt=0)
    tables: dict[str, TableSettings] = Field(default_factory=dict)
    exclude: tuple[str, ...] = Field(default=(), description="features of the log that the model does not read")


class Table(Config):
    """One embedding table, resolved. `bags`: holds pooled user features instead of rows for items and events."""

    name: str
    rows: int
    dim: int
    init_std: float
    bags: bool
    sharding: str | None = None
    learning_rate: float | None = None


class SparseSpec(Config):
    """What the model reads: tables and features per level, in a fixed order.

    user, item, event: features by level; `event` holds both kinds of `known`. `impression`: the event features known
    at request time, read again for the candidate. numbers: standardised inputs by level.
    """

    tables: tuple[Table, ...]
    user: tuple[Feature, ...]
    item: tuple[Feature, ...]
    event: tuple[Feature, ...]
    counters: tuple[str, ...]  # names of impression-level numbers, `<counter>_count` and `<counter>_rate`
    num_actions: int
    ticks_per_second: int

    def table(self, name: str) -> Table:
        return next(t for t in self.tables if t.name == name)

    @property
    def impression(self) -> tuple[Feature, ...]:
        return tuple(f for f in self.event if f.known is Known.REQUEST)

    def collection(self) -> list[Table]:
        """Tables of the embedding collection (item, event and candidate ids)."""
        return [t for t in self.tables if not t.bags]

    def bag_features(self) -> list[Feature]:
        """User features with ids, in order; each is one bag per user."""
        return [f for f in self.user if f.table is not None]


def sparse_spec(manifest: LogManifest, settings: EmbeddingSettings) -> SparseSpec:
    """Resolves which tables exist, how large and how wide.

    Raises:
        ConfigError: settings name a table or a feature that the log does not have.
        SchemaError: one table is read both by user profiles and by items or events.
    """
    schema = manifest.data_schema
    known = {v.table for v in schema.vocabularies}
    for name in settings.tables:
        if name not in known:
            raise ConfigError(f"embedding.tables names {name!r}; the log {schema.name!r} has {sorted(known)}")
    names = {f.name for f in schema.features} | {c.name for c in schema.counters}
    for name in settings.exclude:
        if name not in names:
            raise ConfigError(f"embedding.exclude names {name!r}; the log {schema.name!r} has {sorted(names)}")
    features = [f for f in schema.features if f.name not in settings.exclude and f.kind is not Kind.TEXT]
    by_side = {side: tuple(f for f in features if f.side is side) for side in Side}
    bags = {f.table for f in by_side[Side.USER] if f.table}
    rows = {f.table for f in by_side[Side.ITEM] + by_side[Side.EVENT] if f.table}
    if bags & rows:
        raise SchemaError(
            f"table {sorted(bags & rows)} is read both by user profiles and by items or events; give the profile "
            "feature a table of its own"
        )
    tables = []
    for name in sorted(bags | rows):
        own = settings.tables.get(name, TableSettings())
        tables.append(
            Table(
                name=name,
                rows=manifest.tables[name].rows,
                dim=own.dim or settings.dim,
                init_std=own.init_std or settings.init_std,
                bags=name in bags,
                sharding=own.sharding,
                learning_rate=own.learning_rate,
            )
        )
    counters = [c.name for c in schema.counters if c.name not in settings.exclude]
    return SparseSpec(
        tables=tuple(tables),
        user=by_side[Side.USER],
        item=by_side[Side.ITEM],
        event=by_side[Side.EVENT],
        counters=tuple(f"{c}_{part}" for c in counters for part in ("count", "rate")),
        num_actions=len(schema.actions),
        ticks_per_second=schema.ticks_per_second,
    )
