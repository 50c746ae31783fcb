"""A data recipe: a folder with `schema.py` (what the columns mean) and `build.py` (how the raw files are read)."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import polars as pl
from pydantic import ValidationError

from ctr_rec.config import explain, load_module
from ctr_rec.errors import ConfigError, CtrRecError, DataError
from ctr_rec.prepare.raw import RawLog
from ctr_rec.schema.log import LogSchema, Split


@dataclass(frozen=True)
class DataRecipe:
    """schema: of the log. splits: by name, "default" among them. read: raw folder or file -> RawLog.

    A `read` with a second parameter also receives the split, for what must not look past the training range.
    item_text: items (a data frame with the columns that `read` returns) -> one sentence each, for a text encoder; None
    where build.py has none, so that the TEXT features are taken as they are.
    """

    folder: Path
    schema: LogSchema
    splits: Mapping[str, Split]
    read: Callable[..., RawLog]
    item_text: Callable[[pl.DataFrame], pl.Series] | None = None

    def split(self, name: str = "default") -> Split:
        """A split by its name, or by its ends, "[train_start..]train_end,valid_end[,test_end]" in the log's own unit.

        Raises:
            ConfigError: no such split (lists the recipe's), or ends that are no growing integers.
        """
        if "," in name:
            return _split_from_ends(name)
        if name not in self.splits:
            near = difflib.get_close_matches(name, list(self.splits), n=2, cutoff=0.4)
            raise ConfigError(
                f"{self.folder / 'schema.py'} has no split {name!r}; it has {', '.join(near or self.splits)}"
            )
        return self.splits[name]


def read_raw(recipe: DataRecipe, raw: Path, split: Split) -> RawLog:
    """Calls the recipe's `read`, with the split where it asks for it.

    Raises:
        DataError: `raw` does not exist. ConfigError: `read` raises, or returns something else.
    """
    if not raw.exists():
        raise DataError(f"raw log {raw} does not exist; give what {recipe.folder / 'README.md'} describes")
    where = recipe.folder / "build.py"
    try:
        log = recipe.read(raw, split) if len(inspect.signature(recipe.read).parameters) > 1 else recipe.read(raw)
    except CtrRecError:
        raise
    except Exception as error:
        raise ConfigError(f"{where}: read({raw}) raises {type(error).__name__}: {error}; mend the recipe") from error
    if not isinstance(log, RawLog):
        raise ConfigError(f"{where}: read() must return a RawLog, got {type(log).__name__}")
    return log


def _split_from_ends(text: str) -> Split:
    start, dots, ends = text.rpartition("..")
    names = (*(["train_start"] if dots else []), "train_end", "valid_end", "test_end")
    times = [*([start] if dots else []), *ends.split(",")]
    if not len(names) - 1 <= len(times) <= len(names) or not all(re.fullmatch(r"\s*-?\d+\s*", t) for t in times):
        raise ConfigError(
            "split: expected a name or [TRAIN_START..]TRAIN_END,VALID_END[,TEST_END] as whole numbers in the log's "
            f"time unit, got {text!r}"
        )
    try:
        return Split(**{name: int(t) for name, t in zip(names, times, strict=False)})
    except ValidationError as error:
        raise explain(error, f"split {text}") from error


def load_data_recipe(folder: Path) -> DataRecipe:
    """Loads a recipe folder.

    Raises:
        ConfigError: a file or a name is missing, or the recipe raises when it is loaded.
    """
    for file in ("schema.py", "build.py"):
        if not (folder / file).is_file():
            raise ConfigError(
                f"{folder} is no data recipe: expected schema.py and build.py, {file} is missing; "
                "make one with ctr-rec init, or look at data/movielens_100k"
            )
    schema_module, build_module = _load(folder / "schema.py"), _load(folder / "build.py")
    schema = getattr(schema_module, "SCHEMA", None)
    if not isinstance(schema, LogSchema):
        raise ConfigError(f"{folder / 'schema.py'}: expected SCHEMA, a LogSchema, got {type(schema).__name__}")
    splits = getattr(schema_module, "SPLITS", None)
    if splits is None and isinstance(getattr(schema_module, "SPLIT", None), Split):
        splits = {"default": schema_module.SPLIT}
    if (
        not isinstance(splits, dict)
        or "default" not in splits
        or not all(isinstance(s, Split) for s in splits.values())
    ):
        raise ConfigError(
            f"{folder / 'schema.py'}: expected SPLIT = Split(train_end=..., valid_end=...), or SPLITS, a dict of "
            'splits with the key "default"'
        )
    read: Callable[..., RawLog] | None = getattr(build_module, "read", None)
    if read is None:
        raise ConfigError(
            f"{folder / 'build.py'}: expected a function read(raw: Path) -> RawLog, or read(raw: Path, split: Split)"
        )
    item_text = getattr(build_module, "item_text", None)
    return DataRecipe(folder=folder, schema=schema, splits=splits, read=read, item_text=item_text)


def schema_beside(file: str) -> LogSchema:
    """The SCHEMA of the schema.py in the folder of `file` (a recipe's build.py). Raises ConfigError without one."""
    path = Path(file).with_name("schema.py")
    schema = getattr(_load(path), "SCHEMA", None)
    if not isinstance(schema, LogSchema):
        raise ConfigError(f"{path}: expected SCHEMA, a LogSchema, got {type(schema).__name__}")
    return schema


def _load(path: Path) -> ModuleType:
    return load_module(path, f"ctr_rec_data_{path.parent.name}_{path.stem}")


def folder_name(log: Path) -> str:
    """Of the recipe that `init` writes for a log: its name in small letters, digits and underscores."""
    kept = "".join(c if c.isalnum() else "_" for c in log.name.split(".")[0].lower()).strip("_")
    return kept or "log"
