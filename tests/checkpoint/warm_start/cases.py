"""Sources of every kind, our side of a warm start, and the same question answered row by row in plain Python."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save

from ctr_rec.checkpoint.warm_start.apply import warm_start
from ctr_rec.checkpoint.warm_start.config import WarmStart
from ctr_rec.checkpoint.warm_start.target import TargetTable
from ctr_rec.schema.log import Split
from ctr_rec.schema.manifest import LogManifest
from ctr_rec.sharding.group import Group, open_group
from ctr_rec.sharding.tables import OptimizerKind
from tests.batch.logs import schema
from tests.checkpoint.test_store import whole_state
from tests.ranks import run_ranks
from tests.sharding.small import tables
from tests.sharding.test_parallelize import build

SPLIT = Split(train_end=600, valid_end=800)


def log_manifest() -> LogManifest:
    """A log's manifest as far as a warm start asks: its split and its unit of time."""
    return LogManifest(
        fingerprint="ours",
        data_schema=schema(),
        split=SPLIT,
        tables={},
        numbers={},
        row_groups=(),
        users=0,
        items=0,
        events=0,
        impressions=(0, 0, 0),
        positives={},
        time_range=(0, 1000),
    )


def ids_of(table: str, count: int, seed: int = 0) -> list[str]:
    """Shuffled ids of a table, some of them long."""
    order = np.random.default_rng([seed, count]).permutation(count)
    return [f"{table}{i}" + "-with-a-long-tail" * (i % 3) for i in order]


def write_vocabulary(path: Path, ids: Sequence[str], rows: Sequence[int], counts: Sequence[int] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"id": pa.array(list(ids), pa.string()), "row": pa.array(list(rows), pa.int32())}
    if counts is not None:
        columns["count"] = pa.array(list(counts), pa.int64())
    pq.write_table(pa.table(columns), path, row_group_size=16)
    return path


def write_our_vocabularies(folder: Path, **ids: Sequence[str]) -> None:
    """Rows 1, 2, ... by falling count for the tables of the small ranker; `ids` replaces a table's own."""
    for table in tables():
        mine = list(ids.get(table.name, ids_of(table.name, table.rows - 1, seed=1)))
        assert len(mine) <= table.rows - 1
        counts = range(len(mine) + 5, 5, -1)
        write_vocabulary(folder / f"{table.name}.parquet", mine, range(1, len(mine) + 1), counts)


def targets(folder: Path, **hash_rows: int) -> list[TargetTable]:
    return [
        TargetTable(t.name, t.rows, t.dim, t.init_std, hash_rows.get(t.name), folder / f"{t.name}.parquet")
        for t in tables()
    ]


def start(
    group: Group, config: WarmStart, ours: list[TargetTable], sharding: dict[str, str], kind: str = "rowwise_adagrad"
) -> dict[str, Any]:
    """A fresh small ranker, warm-started: its tables and state whole, before and after, and the report."""
    parallel = build(group, kind, sharding)
    dense = torch.optim.AdamW(parallel.dense_parameters.values(), lr=0.01)
    before = whole_state(parallel, dense)
    report = warm_start(config, parallel, ours, log_manifest(), OptimizerKind(kind))
    return {"before": before, "after": whole_state(parallel, dense), "report": report.model_dump(mode="json")}


def alone(config: WarmStart, ours: list[TargetTable], kind: str = "rowwise_adagrad") -> dict[str, Any]:
    with open_group("cpu") as group:
        return start(group, config, ours, {}, kind)


def on_ranks(
    size: int,
    config: WarmStart,
    ours: list[TargetTable],
    sharding: dict[str, str],
    kind: str = "rowwise_adagrad",
) -> list[dict[str, Any]]:
    return run_ranks(start, size, config, ours, sharding, kind)


def assert_same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Tables, state, dense weights and report, to the bit."""
    assert found["report"] == expected["report"]
    assert found["after"].keys() == expected["after"].keys()
    for name, value in expected["after"].items():
        assert np.array_equal(found["after"][name], value), name


def random_vectors(rows: int, dim: int, seed: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng([seed, rows, dim]).normal(size=(rows, dim)).astype(np.float32))


def parameter(table: str, prefix: str = "model.sparse.ebc") -> str:
    return f"{prefix}.embedding_bags.{table}.weight"


def write_dcp(folder: Path, state: dict[str, Any]) -> Path:
    """A distributed checkpoint without a manifest of ours, as any job writes it."""
    save(state, storage_writer=FileSystemWriter(folder), no_dist=True)
    return folder


_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64", torch.int64: "I64"}


def write_safetensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    """By the letter of the format, with a metadata entry, as other writers have."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, tensor in tensors.items():
        raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def write_parquet(path: Path, ids: Sequence[Any], vectors: Any, parts: int = 1, **states: Any) -> Path:
    """A table as a parameter server exports it: one file, or a folder of parts."""
    vectors = vectors.numpy() if isinstance(vectors, torch.Tensor) else vectors
    kind = pa.from_numpy_dtype(vectors.dtype)
    cuts = np.linspace(0, len(ids), parts + 1).astype(int)
    for part, (low, high) in enumerate(pairwise(cuts)):
        flat = pa.array(vectors[low:high].reshape(-1), kind)
        lists = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        columns: dict[str, pa.Array] = {"id": pa.array(list(ids[low:high])), "vector": lists}
        columns |= {f"state_{key}": pa.array(np.asarray(value)[low:high]) for key, value in states.items()}
        target = path if parts == 1 else path.with_suffix("") / f"part-{part}.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), target, row_group_size=7)
    return path.parent
