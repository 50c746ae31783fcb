"""What is in a checkpoint: of ours with its manifest, or a distributed checkpoint of any other job without one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.progress import track
from rich.table import Table

from ctr_rec.checkpoint.manifest import MANIFEST, Manifest, check_file, read_manifest
from ctr_rec.checkpoint.row_statistics import RowStatistics, row_statistics
from ctr_rec.checkpoint.tensors import Contents, StoredTable, WholeTensor, read_contents
from ctr_rec.errors import CheckpointError
from ctr_rec.files import AnyPath

if TYPE_CHECKING:
    from collections.abc import Iterable

MIB = 1 << 20
DEAD = (
    "dead: rows whose optimizer state is zero, so no gradient ever reached them; ?: plain SGD keeps no state to tell by"
)


def describe_checkpoint(folder: AnyPath, check: bool = False, out: Path | None = None) -> list[RenderableType]:
    """Everything that a checkpoint tells, in the order in which a reader asks.

    Args:
        check: compare every file with the manifest's size and CRC-32 first.
        out: folder for a plot of the distribution of row norms, row_norms.png and row_norms.svg.

    Raises:
        CheckpointError: damaged, or (`check`) without a manifest to check against.
    """
    manifest = read_manifest(folder) if (folder / MANIFEST).is_file() else None
    contents = read_contents(folder)
    parts: list[RenderableType] = []
    if check:
        parts.append(_checked(folder, manifest))
    statistics = {t.parameter: row_statistics(t) for t in _with_progress(contents.tables)}
    parts = [_headline(folder, contents, manifest), *parts]
    if manifest is not None:
        parts += _told(manifest)
    parts += [_tables(contents, manifest), _norms(contents, statistics), DEAD, *_largest(contents, statistics)]
    parts += _dense(contents.dense)
    if contents.others:
        parts.append(f"other tensors: {_grouped(contents.others)}")
    if contents.unread:
        parts.append(f"entries that are no tensors, not read: {', '.join(contents.unread)}")
    if out is not None:
        from ctr_rec.inspect.plot import plot_row_norms

        files = plot_row_norms({t.parameter: (t.name, statistics[t.parameter]) for t in contents.tables}, out)
        parts.append(f"distribution of row norms: {', '.join(str(f) for f in files) or 'no table to draw'}")
    return parts


def _with_progress(tables: Iterable[StoredTable]) -> Iterable[StoredTable]:
    console = Console(stderr=True)
    return track(list(tables), "reading tables", console=console, transient=True, disable=not console.is_terminal)


def _checked(folder: AnyPath, manifest: Manifest | None) -> str:
    if manifest is None:
        raise CheckpointError(
            f"{folder} has no {MANIFEST} of ours, so there are no sizes and checksums to check against; "
            "inspect it without --check"
        )
    for file in manifest.files:
        check_file(folder, file)
    total = sum(f.bytes for f in manifest.files)
    return f"checked: {len(manifest.files)} files, {total:,} bytes, all sizes and CRC-32 as the manifest says"


def _headline(folder: AnyPath, contents: Contents, manifest: Manifest | None) -> str:
    size = f"{contents.bytes / MIB:,.1f} MiB of tensors, {len(contents.tables)} tables"
    if manifest is None:
        return (
            f"{folder} is a distributed checkpoint of PyTorch (DCP) without a {MANIFEST} of ours: {size}. It was "
            "written by another job; nothing stored in it was run. ctr-rec convert and a warm start can read it"
        )
    return f"{folder} is a checkpoint of step {manifest.step}: {size}"


def _told(manifest: Manifest) -> list[RenderableType]:
    config = manifest.config
    run = f"run {config.get('name', '?')}, log {config.get('data', {}).get('log', '?')}"
    stages = f"stage {manifest.stage} ({config.get('train', {}).get('strategy', '?')})"
    trained = "unknown" if manifest.train_range is None else f"{manifest.train_range[0]} to {manifest.train_range[1]}"
    metrics = ", ".join(f"{k} {'undefined' if v is None else f'{v:.5g}'}" for k, v in manifest.metrics.items())
    position = f"{stages}, epoch {manifest.epoch}, next batch {manifest.batch}"
    return [
        f"{run}, data fingerprint {manifest.data_fingerprint[:16] or 'none'}",
        f"position: {position}, saved by {manifest.world_size} rank(s)",
        f"impression times trained on: {trained} (the log's unit)",
        f"validation: {metrics or 'not yet'}",
        f"versions: {', '.join(f'{k} {v}' for k, v in manifest.versions.items())}",
    ]


def _tables(contents: Contents, manifest: Manifest | None) -> RenderableType:
    placed = _placements(manifest)
    out = Table("table", title="Tables")
    for column in ("rows", "width", "dtype", "MiB", "optimizer state", "placement"):
        out.add_column(column, justify="right" if column in ("rows", "width", "MiB") else "left")
    for t in contents.tables:
        states = ", ".join(f"{key} {_shape(state)}" for key, state in t.states.items()) or "none"
        size = sum(x.bytes for x in (t.weight, *t.states.values())) / MIB
        facts = [f"{t.rows:,}", str(t.weight.shape[1]), _dtype(t.weight), f"{size:,.1f}", states]
        out.add_row(t.name, *facts, placed.get(t.name, "unknown"))
    return out


def _norms(contents: Contents, statistics: dict[str, RowStatistics]) -> RenderableType:
    out = Table("table", title="Euclidean norms of rows (quantiles to 6 %)")
    for column in ("1 %", "median", "99 %", "largest", "dead", "zero", "not finite"):
        out.add_column(column, justify="right")
    for t in contents.tables:
        s = statistics[t.parameter]
        norms = [f"{s.quantile(q):.3g}" for q in (0.01, 0.5, 0.99)] + [f"{s.largest[0][0]:.3g}" if s.largest else ""]
        dead = "?" if s.dead is None else f"{s.dead:,}"
        out.add_row(t.name, *norms, dead, f"{s.zero:,}", f"{s.not_finite:,}")
    return out


def _placements(manifest: Manifest | None) -> dict[str, str]:
    plan: dict[str, Any] = manifest.plan if manifest is not None else {}
    return {
        t["table"]: f"{t['sharding']} on {', '.join(str(r) for r in sorted({s['rank'] for s in t['shards']}))}"
        for t in plan.get("tables", ())
    }


def _largest(contents: Contents, statistics: dict[str, RowStatistics]) -> list[RenderableType]:
    """Row numbers, not ids: those are in the log's vocabulary."""
    found = {t.name: statistics[t.parameter].largest for t in contents.tables}
    return [f"largest rows of {name}: " + ", ".join(f"{r} ({n:.3g})" for n, r in rows) for name, rows in found.items()]


def _dense(tensors: dict[str, WholeTensor]) -> list[RenderableType]:
    if not tensors:
        return []
    out = Table("tensor", "shape", "dtype", title=f"Tensors that are no tables, {_mib(tensors)}")
    for name, tensor in tensors.items():
        out.add_row(name, _shape(tensor), _dtype(tensor))
    return [out]


def _grouped(tensors: dict[str, WholeTensor]) -> str:
    """What belongs to nobody who looks into a checkpoint, by the first part of its name."""
    groups: dict[str, dict[str, WholeTensor]] = {}
    for name, tensor in tensors.items():
        groups.setdefault(name.partition(".")[0], {})[name] = tensor
    return ", ".join(f"{len(group)} of {first} ({_mib(group)})" for first, group in groups.items())


def _mib(tensors: dict[str, WholeTensor]) -> str:
    return f"{sum(t.bytes for t in tensors.values()) / MIB:,.1f} MiB"


def _shape(tensor: WholeTensor) -> str:
    return "x".join(str(n) for n in tensor.shape) or "scalar"


def _dtype(tensor: WholeTensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
