"""What a checkpoint says of itself, as JSON. It is written last: a folder without one is no checkpoint.

<run>/checkpoints/step-00000420/
    manifest.json           this file
    .metadata, *.distcp     PyTorch's distributed checkpoint: model, tables and both optimizers
    rank-00000.npz, ...     what belongs to one rank: random states, windowed metrics
"""

from __future__ import annotations

import json
import platform
import zlib
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from pydantic import Field, ValidationError

from ctr_rec.config import Config, explain
from ctr_rec.errors import CheckpointError
from ctr_rec.files import AnyPath, file_size, write_json
from ctr_rec.layers.layout import Axes
from ctr_rec.schema.table import SparseSpec

MANIFEST = "manifest.json"
FORMAT = 1
READ_BYTES = 1 << 22


class StoredFile(Config):
    """crc32: of the content, as eight hexadecimal digits."""

    name: str
    bytes: int
    crc32: str


class Manifest(Config):
    """Everything of a checkpoint but its arrays.

    step: optimizer steps taken. epoch, batch: the next global batch to read. stage: index in the list of stages.
    config: the run's resolved config. train_range: impression times the weights were trained on, in the log's unit,
    so that a later warm start can refuse an overlap with its own validation or test range. tables: rows and width by
    table. layouts: what the axes of dense parameters are made of, where inputs decide it (see layers/layout.py).
    plan: placement when saved. metrics: latest validation metrics, None where undefined. state: plain data of
    the trainer (reader position, early stopping, schedules).
    """

    format: int = FORMAT
    step: int = Field(ge=0)
    epoch: int = Field(default=0, ge=0)
    batch: int = Field(default=0, ge=0)
    stage: int = Field(default=0, ge=0)
    config: dict[str, Any] = Field(default_factory=dict)
    data_fingerprint: str = ""
    train_range: tuple[int, int] | None = None
    tables: dict[str, tuple[int, int]] = Field(default_factory=dict)
    layouts: dict[str, Axes] = Field(default_factory=dict)
    plan: dict[str, Any] = Field(default_factory=dict)
    world_size: int = Field(default=1, ge=1)
    versions: dict[str, str] = Field(default_factory=dict)
    metrics: dict[str, float | None] = Field(default_factory=dict)
    state: dict[str, Any] = Field(default_factory=dict)
    files: tuple[StoredFile, ...] = ()


def versions() -> dict[str, str]:
    """Versions of what decides a checkpoint's bytes."""
    found = {"python": platform.python_version()}
    for package in ("ctr-rec", "torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def table_sizes(spec: SparseSpec) -> dict[str, tuple[int, int]]:
    return {t.name: (t.rows, t.dim) for t in spec.tables}


def describe_file(folder: AnyPath, name: str) -> StoredFile:
    """Size and checksum of one file of a checkpoint."""
    crc, size = 0, 0
    with (folder / name).open("rb") as file:
        while chunk := file.read(READ_BYTES):
            crc = zlib.crc32(chunk, crc)
            size += len(chunk)
    return StoredFile(name=name, bytes=size, crc32=f"{crc:08x}")


def check_file(folder: AnyPath, expected: StoredFile) -> None:
    """Raises CheckpointError when the file is absent, of another size, or changed."""
    path = folder / expected.name
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: the manifest lists it with {expected.bytes} bytes; {_REMEDY}")
    size = file_size(path)
    if size != expected.bytes:
        raise CheckpointError(f"{path} is damaged: expected {expected.bytes} bytes, got {size}; {_REMEDY}")
    found = describe_file(folder, expected.name).crc32
    if found != expected.crc32:
        raise CheckpointError(f"{path} is damaged: expected CRC-32 {expected.crc32}, got {found}; {_REMEDY}")


_REMEDY = "copy the checkpoint again, or resume from an earlier one"


def write_manifest(folder: AnyPath, manifest: Manifest) -> None:
    """Commits a checkpoint: the manifest appears whole or not at all, also after a crash of the machine."""
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))


def read_manifest(folder: AnyPath) -> Manifest:
    """Reads and checks a manifest.

    Raises:
        CheckpointError: no such folder, no manifest (an unfinished save, or no checkpoint at all), not readable as a
            manifest, or written by a later format.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise CheckpointError(f"checkpoint {folder} does not exist; expected a folder that holds {MANIFEST}")
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no {MANIFEST}: the save was cut short, or this is no checkpoint; use another one "
            "(`ctr-rec inspect RUN` lists those that are whole)"
        )
    try:
        fields = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}; {_REMEDY}") from error
    if isinstance(fields, dict) and "data_schema" in fields:
        raise CheckpointError(f"{folder} is a prepared log, not a checkpoint; expected a checkpoint or a run's folder")
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        found = fields.get("format") if isinstance(fields, dict) else type(fields).__name__
        raise CheckpointError(
            f"{path}: expected format {FORMAT}, got {found!r}; read it with the version that wrote it"
        )
    try:
        return Manifest.model_validate(fields)
    except ValidationError as error:
        raise CheckpointError(str(explain(error, str(path)))) from error


def check_compatible(manifest: Manifest, log_fingerprint: str, spec: SparseSpec) -> None:
    """Whether training can go on from a checkpoint on a log with a model's tables.

    Raises:
        CheckpointError: the log's content or the tables differ; names each difference.
    """
    if manifest.data_fingerprint and manifest.data_fingerprint != log_fingerprint:
        raise CheckpointError(
            f"the checkpoint was trained on data with fingerprint {manifest.data_fingerprint}, this log has "
            f"{log_fingerprint}: the data changed; resume on the log of the run, or with --grow where this log was "
            "prepared with --grow and that one, or start a new run (its vocabulary and splits are others)"
        )
    wanted = table_sizes(spec)
    differences = _table_differences(manifest.tables, wanted)
    if manifest.tables and differences:
        raise CheckpointError(
            f"the model's tables are not the checkpoint's: {'; '.join(differences)}; use the run's own config and log, "
            "train with --resume --grow where tables only grew, or start a new run with a warm start"
        )


def _table_differences(stored: Mapping[str, tuple[int, int]], wanted: Mapping[str, tuple[int, int]]) -> list[str]:
    out = []
    for name in sorted(stored.keys() | wanted.keys()):
        if name not in stored:
            out.append(f"{name} is not in the checkpoint")
        elif name not in wanted:
            out.append(f"{name} is in the checkpoint only")
        elif tuple(stored[name]) != tuple(wanted[name]):
            rows, dim = stored[name]
            new_rows, new_dim = wanted[name]
            out.append(f"{name} was {rows} x {dim}, is {new_rows} x {new_dim}")
    return out
