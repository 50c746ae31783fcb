"""What a recipe says of a warm start."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ctr_rec.config import Config
from ctr_rec.errors import ConfigError


class VocabularyIds(Config):
    """The source's rows by a vocabulary.

    path: a prepared log (then its table of the source's name, or its stated hash), or a Parquet file of (id, row[,
    count]). out_of_vocabulary_row: row of a Parquet file that is no id's own; a prepared log says so itself.
    """

    kind: Literal["vocabulary"] = "vocabulary"
    path: str
    out_of_vocabulary_row: int | None = Field(default=None, ge=0)


class HashedIds(Config):
    """The source's row of an id is first + hash64(id) mod rows; rows None: all from `first` on."""

    kind: Literal["hash"] = "hash"
    rows: int | None = Field(default=None, ge=1)
    first: int = Field(default=1, ge=0)


class OwnIds(Config):
    """The `id` column of a Parquet source."""

    kind: Literal["own"] = "own"


PlainIds = Annotated[VocabularyIds | HashedIds | OwnIds, Field(discriminator="kind")]


class MapIds(Config):
    """A Parquet map with columns `id` (ours) and `source_row`, or `id` and `source_id`.

    source_ids: how a `source_id` becomes a row; None as for a table without a map.
    """

    kind: Literal["map"] = "map"
    path: str
    source_ids: PlainIds | None = None


Ids = Annotated[VocabularyIds | HashedIds | OwnIds | MapIds, Field(discriminator="kind")]


class Buckets(Config):
    """Rows of the source's table that its unknown ids shared: first + hash64(id) mod rows."""

    first: int = Field(ge=0)
    rows: int = Field(ge=1)


class TableWarmStart(Config):
    """How one table starts.

    source: name of the source's table, or its full parameter name; None: the same name.
    dim: what happens when widths differ. projection_seed: of "project".
    new_rows: of ids that the source does not have; "bucket" takes the source's `buckets`.
    optimizer_state: "auto" carries it where that is possible and says why where not; "carry" refuses then.
    scale: warn when matched rows are more than this many times larger or smaller than the initialiser's.
    """

    source: str | None = None
    ids: Ids | None = None
    many_to_one: Literal["refuse", "most_frequent", "mean"] = "refuse"
    dim: Literal["refuse", "pad", "truncate", "project"] = "refuse"
    projection_seed: int = Field(default=0, ge=0)
    new_rows: Literal["initialiser", "mean", "bucket"] = "initialiser"
    buckets: Buckets | None = None
    optimizer_state: Literal["auto", "carry", "reset"] = "auto"
    scale: float = Field(default=100.0, gt=1)

    @model_validator(mode="after")
    def _consistent(self) -> TableWarmStart:
        if (self.new_rows == "bucket") != (self.buckets is not None):
            raise ConfigError(
                f"new_rows={self.new_rows} with buckets={self.buckets}: new_rows=bucket needs buckets (first, rows), "
                "which have no effect otherwise"
            )
        if self.new_rows == "bucket" and isinstance(self.ids, HashedIds):
            raise ConfigError("new_rows=bucket with hashed ids: every id has a row there already, none is new")
        return self


class WarmStart(Config):
    """Where a fresh run's tables come from; see `ctr_rec.checkpoint.warm_start`. A resumed run passes over it.

    source: path of a run, a checkpoint, safetensors or Parquet. format: said where "auto" cannot tell.
    checkpoint: of a run folder: best, last or step-N. log: prepared log whose vocabularies name the source's rows.
    tables: settings by our table's name; other tables have the defaults. skip: our tables that are left alone.
    dense: weights that are no tables: none; "matching", those of the same name and shape; "beside", all of the second
    network's (`Run.beside`), whose names the source has without "beside."; or a map from our name to the source's.
    trained_until: time, in our log's unit, up to which the source was trained, where it does not say so itself.
    check: compare checksums where the source has a manifest. force: start even from a source that has seen times of
    the validation or test range.
    """

    source: str
    format: Literal["auto", "checkpoint", "safetensors", "parquet"] = "auto"
    checkpoint: str = "best"
    log: str | None = None
    tables: dict[str, TableWarmStart] = Field(default_factory=dict)
    skip: tuple[str, ...] = ()
    dense: Literal["none", "matching", "beside"] | dict[str, str] = "none"
    trained_until: int | None = None
    check: bool = True
    force: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> WarmStart:
        both = sorted(set(self.skip) & self.tables.keys())
        if both:
            raise ConfigError(f"warm_start.skip and warm_start.tables both name {', '.join(both)}; keep one")
        return self

    def of(self, table: str) -> TableWarmStart:
        return self.tables.get(table, TableWarmStart())
