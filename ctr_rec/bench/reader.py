"""Reader alone on one core: impressions/s pointwise and packed, against DIN's training step and pyarrow's bare scan.

Both sides have one core and one thread for decoding, and no worker: all work is done when a batch is asked for.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ctr_rec.batch.batch import Batch
from ctr_rec.batch.config import Channel, DataConfig, Packed, Pointwise
from ctr_rec.batch.reader import Reader
from ctr_rec.bench.record import Emit, Timing, measure, one_core
from ctr_rec.models.baselines.din import DINConfig
from ctr_rec.models.ranker import Ranker
from ctr_rec.schema.hashing import hash64
from ctr_rec.schema.log import Feature, Kind, LogSchema, Side, Split, Vocabulary
from ctr_rec.schema.manifest import MANIFEST, LogManifest, RowGroup, TableInfo, load_manifest
from ctr_rec.schema.table import EmbeddingSettings, SparseSpec, sparse_spec

LAST = 50
STEPS = 8
DIN_GOAL, SCAN_GOAL = ">= 10", ">= 0.5"


@dataclass(frozen=True)
class Case:
    """A way to fill batches, what it reads, and how many impressions an epoch has."""

    name: str
    reader: Reader
    columns: list[str]
    impressions: int


def run(emit: Emit, log: Path | None = None) -> None:
    """Emit every case on a prepared log, or on a synthetic one of MovieLens-1M's size without `log`."""
    with given_or_synthetic(log, users=6040, events=1_000_000) as folder, one_core(), _one_thread():
        manifest = load_manifest(folder)
        spec = sparse_spec(manifest, EmbeddingSettings())
        for case in _cases(folder, manifest, spec):
            scan = _scan_of(folder, manifest, case.columns)
            timings = measure({"reader": lambda c=case: _exhaust(c.reader.batches(0)), "scan": scan}, runs=3)
            _emit_rates(emit, case, timings)
            _emit_bytes(emit, case, timings, _bytes_scanned(folder, manifest, case.columns))
            if case.name.startswith("pointwise"):
                _emit_din(emit, case, timings["reader"], spec)


def _cases(folder: Path, manifest: LogManifest, spec: SparseSpec) -> list[Case]:
    schema = manifest.data_schema
    label = schema.labels[0]
    half = len(schema.actions) // 2
    codes = tuple(range(len(schema.actions)))
    channels = {
        "low": Channel(actions=codes[:half] or codes, last=LAST),
        "high": Channel(actions=codes[half:], last=LAST),
    }
    columns = ["user", "time", "request_time", "item", "impression", "action", f"label_{label}", *spec.counters]
    columns += [f.name for f in spec.event]
    fills: list[tuple[str, Pointwise | Packed, dict[str, Channel]]] = [
        (f"pointwise, batch 4,096, history {LAST}+{LAST}", Pointwise(impressions=4096), channels),
        ("packed, 16,384 tokens, context 512", Packed(tokens=16384, context=512), {}),
    ]
    cases = []
    for name, batches, own in fills:
        config = DataConfig(log=str(folder), label=label, batches=batches, channels=own, workers=0)
        reader = Reader(config, spec, "train", seed=0)
        cases.append(Case(f"{name}, {schema.name}", reader, columns, reader.num_impressions()))
    return cases


def _scan_of(folder: Path, manifest: LogManifest, columns: list[str]) -> Callable[[], object]:
    files = {g.file: pq.ParquetFile(folder / g.file, memory_map=True) for g in manifest.row_groups}  # open as ours are

    def scan() -> None:
        for group in manifest.row_groups:
            files[group.file].read_row_group(group.index, columns=columns)

    return scan


def _bytes_scanned(folder: Path, manifest: LogManifest, columns: list[str]) -> int:
    return sum(
        pq.ParquetFile(folder / g.file).read_row_group(g.index, columns=columns).nbytes for g in manifest.row_groups
    )


def _exhaust(batches: Iterator[Batch]) -> None:
    for _ in batches:
        pass


def _emit_rates(emit: Emit, case: Case, timings: dict[str, Timing]) -> None:
    """An event is delivered once in packed batches, as it is scanned once: there the scan is a fair measure."""
    mine, scan = timings["reader"], timings["scan"]
    emit(
        "reader",
        f"{case.name}, against pyarrow's scan of the same columns",
        "impressions per second",
        case.impressions / mine.median,
        "1/s",
        baseline=case.impressions / scan.median,
        ratio=scan.median / mine.median,
        goal=SCAN_GOAL if case.name.startswith("packed") else None,
        min=case.impressions / mine.max,
        max=case.impressions / mine.min,
        runs=mine.runs,
    )


def _emit_bytes(emit: Emit, case: Case, timings: dict[str, Timing], scanned: int) -> None:
    """A pointwise epoch delivers an event once per batch that reads it, so bytes are compared with bytes."""
    delivered = sum(_bytes(b) for b in case.reader.batches(0))
    mine, scan = delivered / timings["reader"].median, scanned / timings["scan"].median
    where = f"{case.name}, against pyarrow's scan of the same columns"
    emit("reader", where, "megabytes per second", mine / 1e6, "MB/s", scan / 1e6, mine / scan, SCAN_GOAL)


def _bytes(value: object) -> int:
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if isinstance(value, dict):
        return sum(_bytes(v) for v in value.values())
    return sum(_bytes(v) for v in vars(value).values()) if hasattr(value, "__dataclass_fields__") else 0


def _emit_din(emit: Emit, case: Case, reader: Timing, spec: SparseSpec) -> None:
    """Forward, backward and update of DIN on batches that are there already, on the same single core."""
    batches = list(islice(case.reader.batches(0), STEPS))
    ranker = Ranker(spec, DINConfig(), tuple(batches[0].histories), front_device="cpu")
    optimizer = torch.optim.SGD(ranker.parameters(), lr=0.01)

    def train() -> None:
        for batch in batches:
            optimizer.zero_grad()
            torch.nn.functional.binary_cross_entropy_with_logits(ranker(batch), batch.label).backward()
            optimizer.step()

    timing = measure({"train": train}, runs=3)["train"]
    trained = sum(b.num_impressions for b in batches) / timing.median
    rate = case.impressions / reader.median
    where = f"{case.name}, against DIN's training step"
    emit("reader", where, "impressions per second", rate, "1/s", trained, rate / trained, DIN_GOAL, runs=reader.runs)


@contextmanager
def _one_thread() -> Iterator[None]:
    before, arrow = torch.get_num_threads(), pa.cpu_count()
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        pa.set_cpu_count(arrow)


@contextmanager
def given_or_synthetic(log: Path | None, users: int, events: int) -> Iterator[Path]:
    """The log that was named, or one of `write_synthetic` that goes with the block."""
    if log is not None:
        yield log
        return
    with tempfile.TemporaryDirectory() as folder:
        write_synthetic(Path(folder), users, events)
        yield Path(folder)


def write_synthetic(folder: Path, users: int, events: int, items: int = 3700, seed: int = 0) -> LogManifest:
    """A prepared log of random ratings with about `events` events and MovieLens' skew of lengths; no meaning in it."""
    random = np.random.default_rng(seed)
    lengths = np.maximum(random.lognormal(0, 1.1, users) / np.exp(0.605) * events / users, 5).astype(np.int64)
    total = int(lengths.sum())
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    owner = np.repeat(np.arange(users), lengths)
    time = random.integers(0, 10_000_000, total)
    time = time[np.lexsort((time, owner))]
    action = random.integers(0, 5, total)
    item = np.minimum(random.zipf(1.2, total) - 1, items - 1).astype(np.int32)
    first_time = np.full(items, time.max())
    np.minimum.at(first_time, item, time)
    columns = {
        "time": pa.array(time),
        "request_time": pa.array(time),
        "item": pa.array(item),
        "impression": pa.array(np.ones(total, bool)),
        "action": pa.array(action.astype(np.int16)),
        "label_liked": pa.array((action >= 3).astype(np.int8)),
    }
    lists = {name: pa.ListArray.from_arrays(offsets.astype(np.int32), values) for name, values in columns.items()}
    (folder / "events").mkdir()
    (folder / "items").mkdir()
    file = "events/part-00000.parquet"
    per_group = -(-users // 8)
    table = pa.table({"user": pa.array(np.arange(users)), **lists})
    pq.write_table(table, folder / file, compression="zstd", row_group_size=per_group)
    film = pa.array(np.arange(1, items + 1, dtype=np.int32))
    pq.write_table(pa.table({"film": film, "first_time": first_time}), folder / "items" / "items.parquet")
    (folder / "vocabulary").mkdir()
    counts = np.bincount(item, minlength=items)
    vocabulary = {"id": film.cast(pa.string()), "row": film, "count": counts, "hash": hash64(film.to_pylist())}
    pq.write_table(pa.table(vocabulary), folder / "vocabulary" / "item.parquet")
    split = Split(train_end=8_000_000, valid_end=9_000_000)
    manifest = _manifest(file, offsets, time, per_group, split, items)
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return manifest


def _manifest(
    file: str, offsets: np.ndarray, time: np.ndarray, per_group: int, split: Split, items: int
) -> LogManifest:
    groups = []
    for index, first in enumerate(range(0, len(offsets) - 1, per_group)):
        begin, end = int(offsets[first]), int(offsets[min(first + per_group, len(offsets) - 1)])
        which = split.number(time[begin:end])
        train, valid, test = (int((which == s).sum()) for s in range(3))
        users = min(per_group, len(offsets) - 1 - first)
        counts = (train, valid, test)
        groups.append(
            RowGroup(file=file, index=index, users=users, events=end - begin, first_event=begin, impressions=counts)
        )
    return LogManifest(
        fingerprint="synthetic",
        data_schema=LogSchema(
            name="synthetic",
            features=(Feature(name="film", kind=Kind.CATEGORY, side=Side.ITEM, table="item"),),
            vocabularies=(Vocabulary(table="item"),),
            actions=("1", "2", "3", "4", "5"),
            labels=("liked",),
        ),
        split=split,
        tables={"item": TableInfo(rows=items + 1, ids=items, out_of_vocabulary_share=0.0)},
        numbers={},
        row_groups=tuple(groups),
        users=len(offsets) - 1,
        items=items,
        events=int(offsets[-1]),
        impressions=tuple(sum(g.impressions[s] for g in groups) for s in range(3)),  # pyright: ignore
        positives={},
        time_range=(int(time.min()), int(time.max())),
    )
