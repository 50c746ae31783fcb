"""Which kind of source a path is."""

from __future__ import annotations

from pathlib import Path

from ctr_rec.checkpoint.history import CONFIG, FOLDER, find
from ctr_rec.checkpoint.manifest import MANIFEST
from ctr_rec.checkpoint.warm_start.config import WarmStart
from ctr_rec.checkpoint.warm_start.dcp import open_checkpoint
from ctr_rec.checkpoint.warm_start.parquet import ENDING as PARQUET
from ctr_rec.checkpoint.warm_start.parquet import open_parquet_source
from ctr_rec.checkpoint.warm_start.safetensors import ENDING as SAFETENSORS
from ctr_rec.checkpoint.warm_start.safetensors import open_safetensors
from ctr_rec.checkpoint.warm_start.source import Source
from ctr_rec.errors import CheckpointError
from ctr_rec.sharding.group import Group


def open_source(config: WarmStart, group: Group) -> Source:
    """Opens the source of a warm start; only indexes are read (and checksums compared, where `check` asks for it).

    Raises:
        CheckpointError: nothing there, of no known kind, damaged, without a table, or on a store without a plug-in.
    """
    path = place(config.source)
    kind = kind_of(path) if config.format == "auto" else config.format
    if kind == "checkpoint":
        source = open_checkpoint(_step(path, config.checkpoint), group, config.check)
    else:
        source = open_safetensors(path) if kind == "safetensors" else open_parquet_source(path)
    if not source.tables:
        raise CheckpointError(
            f"{config.source} has no table: expected tensors named ...embeddings.<table>.weight or "
            f"...embedding_bags.<table>.weight, or Parquet files <table>{PARQUET}; it has "
            f"{', '.join(sorted(source.dense)[:8]) or 'nothing'}"
        )
    return source


def place(text: str) -> Path:
    """A path as the file system knows it. Raises CheckpointError where its store has no plug-in here."""
    scheme, mark, rest = text.partition("://")
    if mark and scheme != "file":
        raise CheckpointError(
            f"{text}: warm starts read rows from mounted file systems, and nothing here reads {scheme}://; copy the "
            f"source to a disk, or mount {scheme}:// and give that path"
        )
    return Path(rest if mark else text)


def kind_of(path: Path) -> str:
    """checkpoint, safetensors or parquet. Raises CheckpointError that says what was expected."""
    if not path.exists():
        raise CheckpointError(f"warm_start.source {path} does not exist (looked from {Path.cwd()})")
    if path.is_file() and path.suffix in (SAFETENSORS, PARQUET):
        return path.suffix[1:]
    if path.is_dir():
        if any((path / name).exists() for name in (FOLDER, CONFIG, ".metadata", MANIFEST)):
            return "checkpoint"
        if any(path.glob(f"*{SAFETENSORS}")):
            return "safetensors"
        if any(path.glob(f"*{PARQUET}")) or any(path.glob(f"*/*{PARQUET}")):
            return "parquet"
    held = ", ".join(sorted(p.name for p in path.iterdir())[:8]) if path.is_dir() else "a file"
    raise CheckpointError(
        f"warm_start.source {path} is no run, distributed checkpoint (.metadata), {SAFETENSORS} or {PARQUET}; it "
        f"holds: {held or 'nothing'}"
    )


def _step(path: Path, which: str) -> Path:
    """The checkpoint of a run folder; a checkpoint is itself."""
    found = find(path, which) if (path / CONFIG).is_file() or (path / FOLDER).is_dir() else path
    # A run may keep its checkpoints in a store.
    return found if isinstance(found, Path) else place(str(found))
