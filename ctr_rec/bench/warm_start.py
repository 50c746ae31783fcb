"""Warm start: memory and time of filling a sharded table by id, against reading as many bytes.

A table in four shards is started on two and on three ranks from another model's, whose rows are in the same order or
shuffled. The baseline reads as many bytes as a rank holds from the same files into memory that was written before, all
ranks at once: no warm start can do less. Files are read from the system's cache ("cached") and from the disk
("evicted": the system was told to forget them before each run; it obeys where it can).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from ctr_rec.bench.record import Emit
from ctr_rec.sharding.launch import rank_environment

ROWS, WIDTH, SHARDS, RUNS = 8_000_000, 64, 4, 3
RANKS = (2, 3)
MEMORY_GOAL, TIME_GOAL = ">= 1", ">= 0.25"
ALLOWED_FACTOR, ALLOWED_BYTES = 1.25, 512 << 20
# What a busy machine cannot lengthen; besides, since the goal speaks of time.
PROCESSOR = "cached, processor time"
PARAMETER = "model.embeddings.item.weight"


def run(
    emit: Emit, log: Path | None = None, rows: int = ROWS, ranks: tuple[int, ...] = RANKS, runs: int = RUNS
) -> None:
    """Emit peak memory and time per number of ranks and order of ids. `log` is not used; needs 2 GiB of disk."""
    del log
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_source(folder, rows)
        for size in ranks:
            for order in ("same", "shuffled"):
                _emit(emit, rows, size, order, runs, _launch(folder, size, order, rows, runs))


def _emit(emit: Emit, rows: int, size: int, order: str, runs: int, figures: list[dict[str, Any]]) -> None:
    case = f"{rows:,} x {WIDTH}, {order} order of ids, {size} ranks"
    peak = max(f["peak"] for f in figures)
    allowed = max(ALLOWED_FACTOR * f["shard"] for f in figures) + ALLOWED_BYTES
    emit(
        "warm_start",
        case,
        "peak memory of a rank above its imports; ratio: 1.25 x shard + 512 MB over it",
        peak,
        "bytes",
        baseline=allowed,
        ratio=allowed / peak,
        goal=MEMORY_GOAL,
    )
    for state in ("cached", "evicted", PROCESSOR):
        took, read = (
            [max(f[f"{state} {what}"][i] for f in figures) for i in range(runs)] for what in ("start", "read")
        )
        emit(
            "warm_start",
            f"{case}, {state}",
            "seconds of the warm start; baseline: of reading as many bytes",
            statistics.median(took),
            "s",
            baseline=statistics.median(read),
            ratio=statistics.median(read) / statistics.median(took),
            goal=None if state == PROCESSOR else TIME_GOAL,
            min=min(took),
            max=max(took),
            runs=runs,
        )


def write_source(folder: Path, rows: int) -> None:
    """A distributed checkpoint in four shards, row-wise Adagrad's state beside it, and three vocabularies."""
    import numpy as np
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    ids = pl.Series(np.arange(rows) * 7 + 1_000_000).cast(pl.String)
    order = np.random.default_rng(0).permutation(rows)
    for name, mine in (("theirs", ids), ("same", ids), ("shuffled", ids.gather(order))):
        text = mine.to_arrow().cast(pa.string())
        columns = {"id": text, "row": np.arange(1, rows + 1, dtype=np.int32), "count": np.arange(rows, 0, -1)}
        pq.write_table(pa.table(columns), folder / f"{name}.parquet", compression="zstd")
    cuts = np.linspace(0, rows + 1, SHARDS + 1).astype(int).tolist()
    pieces: dict[str, list[tuple[int, torch.Tensor]]] = {PARAMETER: [], f"{PARAMETER}.item.momentum1": []}
    random = np.random.default_rng(1)
    for low, high in pairwise(cuts):
        shard = torch.from_numpy(random.standard_normal((high - low, WIDTH), dtype=np.float32))
        pieces[PARAMETER] = [(low, shard)]
        pieces[f"{PARAMETER}.item.momentum1"] = [(low, shard[:, 0].square())]
        _write_pieces(folder / "source", pieces, (rows + 1, WIDTH))


def _write_pieces(folder: Path, pieces: dict[str, list[tuple[int, Any]]], shape: tuple[int, int]) -> None:
    """Adds a shard's tensors to a checkpoint, as the process that holds it would have written them."""
    import pickle

    import torch
    from torch.distributed.checkpoint.filesystem import _StorageInfo
    from torch.distributed.checkpoint.metadata import (
        ChunkStorageMetadata,
        Metadata,
        MetadataIndex,
        TensorProperties,
        TensorStorageMetadata,
    )

    from ctr_rec.checkpoint.safe_reader import read_metadata

    folder.mkdir(exist_ok=True)
    index = folder / ".metadata"
    metadata = read_metadata(folder) if index.is_file() else Metadata({}, storage_data={})
    name = f"__{len(list(folder.glob('*.distcp')))}_0.distcp"
    with (folder / name).open("wb") as file:
        for key, parts in pieces.items():
            size = torch.Size(shape[: parts[0][1].dim()])
            entry = TensorStorageMetadata(TensorProperties(torch.float32), size, [])
            entry = metadata.state_dict_metadata.setdefault(key, entry)
            for row, tensor in parts:
                offsets = torch.Size([row, 0][: tensor.dim()])
                start = file.tell()
                torch.save(tensor.clone(), file)
                entry.chunks.append(ChunkStorageMetadata(offsets, tensor.shape))  # pyright: ignore[reportAttributeAccessIssue]
                place = _StorageInfo(name, start, file.tell() - start)
                metadata.storage_data[MetadataIndex(key, offsets)] = place
        file.flush()
        os.fsync(file.fileno())
    index.write_bytes(pickle.dumps(metadata))


def _launch(folder: Path, size: int, order: str, rows: int, runs: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as meeting:
        arguments = f"{str(folder)!r}, {order!r}, {rows}, {runs}, {f'file://{meeting}/store'!r}"
        code = "import json; from ctr_rec.bench.warm_start import rank_figures as f; "
        code += f"print(json.dumps(f({arguments})))"
        processes = []
        for rank in range(size):
            environment = {**os.environ, **rank_environment(rank, size), "OMP_NUM_THREADS": "1"}
            environment["POLARS_MAX_THREADS"] = "1"
            pipe = subprocess.PIPE
            command = [sys.executable, "-c", code]
            processes.append(subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True))
        outputs = [process.communicate() for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        if process.returncode:
            raise RuntimeError(f"a rank of the warm start bench ended with {process.returncode}:\n{errors}")
    return [json.loads(out.splitlines()[-1]) for out, _ in outputs]


def rank_figures(folder: str, order: str, rows: int, runs: int, meeting: str) -> dict[str, Any]:
    """Peak bytes and seconds of this rank, in a process of its own."""
    import torch
    from torchrec.modules.embedding_configs import EmbeddingConfig
    from torchrec.modules.embedding_modules import EmbeddingCollection

    from ctr_rec.checkpoint.warm_start.apply import warm_start
    from ctr_rec.checkpoint.warm_start.config import TableWarmStart, VocabularyIds, WarmStart
    from ctr_rec.checkpoint.warm_start.target import TargetTable
    from ctr_rec.schema.table import Table
    from ctr_rec.sharding.group import open_group
    from ctr_rec.sharding.parallelize import parallelize
    from ctr_rec.sharding.plan import ShardingConfig
    from ctr_rec.sharding.tables import OptimizerKind, local_shards

    torch.set_num_threads(1)
    imported = resident()
    place = Path(folder)
    table = Table(name="item", rows=rows + 1, dim=WIDTH, init_std=0.01, bags=False, sharding="row_wise")
    one = EmbeddingConfig(name="item", embedding_dim=WIDTH, num_embeddings=rows + 1, feature_names=["item"])
    ids = VocabularyIds(path=str(place / "theirs.parquet"))
    settings = TableWarmStart(ids=ids, optimizer_state="carry")
    config = WarmStart(source=str(place / "source"), tables={"item": settings})
    ours = TargetTable("item", rows + 1, WIDTH, 0.01, None, place / f"{order}.parquet")
    with open_group("cpu", init_method=meeting) as group:
        model = torch.nn.Sequential(
            EmbeddingCollection(tables=[one], device=torch.device("meta")), torch.nn.Linear(1, 1)
        )
        parallel = parallelize(model, [table], ShardingConfig(), group)
        (shard,) = local_shards(parallel.model)
        figures: dict[str, Any] = {"shard": shard.weight.numel() * 4}
        forget_peak()
        for state in ("cached", "evicted"):
            for what in ("read", "start") * runs:
                if state == "evicted" and group.is_main:
                    evict(place)
                group.barrier()
                began, used = time.perf_counter(), time.process_time()
                if what == "read":
                    _read(place / "source", shard.weight, shard.offset[0] * WIDTH * 4)
                else:
                    warm_start(config, parallel, [ours], _manifest(), OptimizerKind.ROWWISE_ADAGRAD)
                figures.setdefault(f"{state} {what}", []).append(time.perf_counter() - began)
                if state == "cached":
                    figures.setdefault(f"{PROCESSOR} {what}", []).append(time.process_time() - used)
        figures["peak"] = peak() - imported
    return figures


def _read(source: Path, weight: Any, skip: int) -> None:
    """Reads as many bytes as a shard has, in order, into its own memory; each rank begins where the one before ends."""
    view = memoryview(weight.reshape(-1).numpy().view("uint8"))
    filled = 0
    for path in sorted(source.glob("*.distcp")):
        size = path.stat().st_size
        with path.open("rb", buffering=0) as file:
            file.seek(min(skip, size))
            while filled < len(view) and (got := file.readinto(view[filled : filled + (1 << 24)])):
                filled += got
        skip = max(0, skip - size)


def _manifest() -> Any:
    """A log's manifest as far as a warm start asks: where its training range ends."""
    from ctr_rec.schema.log import LogSchema, Split
    from ctr_rec.schema.manifest import LogManifest

    schema = LogSchema(name="bench", features=(), vocabularies=(), actions=("click",), labels=("click",))
    none = {"tables": {}, "numbers": {}, "row_groups": (), "positives": {}, "users": 0, "items": 0, "events": 0}
    split = Split(train_end=1, valid_end=2)
    return LogManifest(
        fingerprint="", data_schema=schema, split=split, impressions=(0, 0, 0), time_range=(0, 3), **none
    )


def evict(folder: Path) -> None:
    """Asks the system to forget what it keeps of these files; they were forced to the disk when written."""
    for path in folder.rglob("*"):
        if path.is_file() and hasattr(os, "posix_fadvise"):
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident() -> int:
    """Bytes of this process in memory."""
    import psutil

    return psutil.Process().memory_info().rss


def forget_peak() -> None:
    """From here on `peak` counts anew, where Linux allows it; elsewhere it stays the peak of the whole process."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak() -> int:
    """Largest number of bytes that this process had in memory."""
    import resource

    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
