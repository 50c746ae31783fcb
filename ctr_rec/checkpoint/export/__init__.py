"""Tables and dense weights of a checkpoint for other tools: safetensors or Parquet. Streamed; no table is ever whole.

safetensors     <table>.safetensors     `<parameter>`, as in `collection.embeddings.item.weight`, and the state of its
                                        optimizer, `table_optimizer.<parameter>.<state key>`
                dense.safetensors       every other parameter of the model by its name
parquet         <table>.parquet         id (string), row (int64), vector (fixed-size list), state_<key>; ascending rows;
                                        with rows_per_file <table>/part-00000.parquet and so on
                rows_without_id/<table>/rows.parquet
                                        the same without `id`: row 0, which stands for all ids that have no row of their
                                        own, and rows that no id of the vocabulary has
                dense/dense.safetensors as above, in a folder of its own: readers tell a format by the files beside it

Without a vocabulary a table's Parquet has all rows and no `id`. Two ids that share a row (by a hash) have a line each.
The state keys are TorchRec's: `momentum1` for Adagrad and row-wise Adagrad.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ctr_rec.checkpoint.export.parquet import write_parquet
from ctr_rec.checkpoint.export.row_ids import RowIds, find_ids
from ctr_rec.checkpoint.export.safetensors import write_safetensors
from ctr_rec.checkpoint.manifest import MANIFEST, Manifest, read_manifest
from ctr_rec.checkpoint.tensors import STATE, Contents, StoredTable, read_contents
from ctr_rec.errors import ConfigError
from ctr_rec.files import place, remove_tree
from ctr_rec.models.ranker import BESIDE

CONFIG = "config.json"
SOURCE = "source.json"


def convert(
    path: str | Path,
    to: Literal["safetensors", "parquet"],
    out: Path,
    log: str | None = None,
    rows_per_file: int | None = None,
    say: Callable[[str], object] = print,
) -> None:
    """Converts a checkpoint of ours or any DCP folder. `out` appears when all is written, or not at all.

    Args:
        path: of the checkpoint, local or with a scheme.
        log: prepared log whose vocabularies name the rows; None takes the run's own, where it is still there.
        rows_per_file: of Parquet part files; None writes one file per table.
        say: receives a sentence per thing done.

    Raises:
        ConfigError: `out` holds something, or an option without effect.
        CheckpointError: the checkpoint is damaged, or `log` is not the log it was trained on.
    """
    if to == "safetensors" and (log is not None or rows_per_file is not None):
        option = "--log" if log is not None else "--rows-per-file"
        raise ConfigError(f"{option} has no effect on safetensors, which hold whole tensors; remove it or use parquet")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out} is not empty; name a new folder")
    folder = place(path)
    if isinstance(folder, Path) and (folder / CONFIG).is_file():
        raise ConfigError(f"{folder} is a run; name one of its checkpoints (ctr-rec inspect {folder} lists them)")
    contents = read_contents(folder)
    manifest = read_manifest(folder) if (folder / MANIFEST).is_file() else None
    if manifest is not None:
        contents = _without_beside(contents, say)
    ids = find_ids(manifest, contents, log, say) if to == "parquet" else {}
    partial = out.with_name(out.name + ".partial")
    if partial.exists():
        remove_tree(partial)
    partial.mkdir(parents=True)
    try:
        _write(contents, partial, to, ids, rows_per_file, say)
        (partial / SOURCE).write_text(json.dumps(_source(contents, manifest), indent=1) + "\n")
    except BaseException:
        remove_tree(partial)
        raise
    if out.exists():
        out.rmdir()
    partial.rename(out)
    say(f"{out}: {len(contents.tables)} tables and {len(contents.dense)} dense weights as {to}")


def _without_beside(contents: Contents, say: Callable[[str], object]) -> Contents:
    """A checkpoint of ours may hold a second network that the model was trained with, and that nobody serves."""
    kept = {name: value for name, value in contents.dense.items() if not name.startswith(BESIDE)}
    if len(kept) < len(contents.dense):
        say(f"left out: {len(contents.dense) - len(kept)} weights of the network that was trained beside the model")
    return replace(contents, dense=kept)


def _write(
    contents: Contents,
    out: Path,
    to: str,
    ids: dict[str, RowIds],
    rows_per_file: int | None,
    say: Callable[[str], object],
) -> None:
    for table, name in zip(contents.tables, file_names(contents), strict=True):
        if to == "parquet":
            written = write_parquet(table, name, out, ids.get(table.name), rows_per_file)
        else:
            states = {f"{STATE}{table.parameter}.{key}": state for key, state in table.states.items()}
            write_safetensors(out / f"{name}.safetensors", {table.parameter: table.weight, **states})
            written = f"{table.rows:,} rows"
        say(f"{name}: {written}")
    if contents.dense:
        folder = out / "dense" if to == "parquet" else out
        folder.mkdir(exist_ok=True)
        write_safetensors(folder / "dense.safetensors", contents.dense)


def file_names(contents: Contents) -> list[str]:
    """The tables' names; where two models of one checkpoint share a name, the whole parameter's."""
    times = Counter(table.name for table in contents.tables)
    names = [table.name if times[table.name] == 1 else table.parameter for table in contents.tables]
    return [name.replace("/", "_") for name in names]


def _source(contents: Contents, manifest: Manifest | None) -> dict[str, object]:
    tables = [_told(table) for table in contents.tables]
    ours = {} if manifest is None else {"step": manifest.step, "data_fingerprint": manifest.data_fingerprint}
    return {"source": str(contents.folder), **ours, "tables": tables, "versions": manifest.versions if manifest else {}}


def _told(table: StoredTable) -> dict[str, object]:
    return {"name": table.name, "parameter": table.parameter, "rows": table.rows, "states": sorted(table.states)}
