"""Day by day onto logs that grow: equal, on every id and to the bit, to a run that had all rows from the start."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from ctr_rec.batch.config import Channel, DataConfig, Packed, Pointwise
from ctr_rec.checkpoint.history import committed, latest
from ctr_rec.checkpoint.safe_reader import read_metadata
from ctr_rec.checkpoint.state import training_state
from ctr_rec.checkpoint.store import load
from ctr_rec.config import override
from ctr_rec.errors import CheckpointError, ConfigError
from ctr_rec.models.baselines.din import DINConfig
from ctr_rec.models.baselines.hstu import HSTUConfig
from ctr_rec.prepare.raw import RawLog
from ctr_rec.prepare.vocabulary import vocabulary_path
from ctr_rec.schema.hashing import hash64
from ctr_rec.schema.log import LogSchema, Split, Vocabulary
from ctr_rec.schema.manifest import MANIFEST, load_manifest
from ctr_rec.schema.table import EmbeddingSettings
from ctr_rec.sharding.group import Group, open_group
from ctr_rec.sharding.initial import normal_rows
from ctr_rec.sharding.tables import is_table, local_shards, table_of
from ctr_rec.train.build import build as build_run
from ctr_rec.train.folder import RunFolder
from ctr_rec.train.growth import read_growth, settle_growth
from ctr_rec.train.main import fit
from ctr_rec.train.run import Run, TrainConfig
from ctr_rec.train.trainer import Trainer
from tests.prepare.raws import SCHEMA, build, random_raw
from tests.ranks import run_ranks

ENDS = (80, 240, 480)
VALID_END = 800
# Every id of the training range has a row: an id that shared row 0 on day 1 would have trained another row.
DAILY: LogSchema = SCHEMA.model_copy(
    update={"vocabularies": tuple(Vocabulary(table=v.table, hash_rows=v.hash_rows) for v in SCHEMA.vocabularies)}
)


def splits() -> list[Split]:
    starts = (None, *ENDS)
    return [Split(train_start=s, train_end=e, valid_end=VALID_END) for s, e in zip(starts, ENDS, strict=False)]


def small_days() -> RawLog:
    """Later days bring new items, new pages and users of another country."""
    raw = random_raw(seed=4, users=30, items=80, events=1500)
    events = raw.events.with_columns(
        item_id=(pl.col("item_id") * 7 + pl.col("time") // 60) % 80,
        page=pl.format("p{}", pl.col("time") // 100),
    )
    return RawLog(events=events, users=raw.users, items=raw.items)


def prepare_days(
    raw: RawLog,
    folder: Path,
    schema: LogSchema,
    days: list[Split],
    first: Path | None = None,
    row_group_events: int = 200,
) -> list[Path]:
    """One log per day, each grown from the day before's; the first from `first`, if any."""
    logs: list[Path] = []
    folder.mkdir(exist_ok=True)
    for number, split in enumerate(days, 1):
        logs.append(folder / f"day{number}")
        old = logs[-2] if number > 1 else first
        build(raw, logs[-1], schema, split, grow=old, row_group_events=row_group_events)
    return logs


def prepare_whole(
    raw: RawLog, folder: Path, schema: LogSchema, days: list[Split], scales: Path, row_group_events: int = 200
) -> list[Path]:
    """The same days with every row from the start, in the order of the whole range's counts, on the scales of a log."""
    folder.mkdir()
    whole = folder / "whole"
    build(raw, whole, schema, days[-1].model_copy(update={"train_start": None}))
    fields = json.loads((whole / MANIFEST).read_text())
    fields |= {name: json.loads((scales / MANIFEST).read_text())[name] for name in ("numbers", "priors")}
    (whole / MANIFEST).write_text(json.dumps(fields))
    return prepare_days(raw, folder, schema, days, whole, row_group_events)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[Path]]:
    """(day by day, with all rows from the start)"""
    root, raw = tmp_path_factory.mktemp("logs"), small_days()
    grown = prepare_days(raw, root / "grown", DAILY, splits())
    return grown, prepare_whole(raw, root / "full", DAILY, splits(), grown[0])


def daily_run(log: Path, exclude: tuple[str, ...] = ("dwell",)) -> Run:
    return Run(
        name="daily",
        data=DataConfig(
            log=str(log),
            label="click",
            batches=Pointwise(impressions=32),
            channels={"all": Channel(last=8), "clicked": Channel(actions=(1, 2), last=4)},
            buffer_row_groups=2,
        ),
        tower=DINConfig(),
        embedding=EmbeddingSettings(dim=4, exclude=exclude),
        train=TrainConfig(epochs=2, threads=1, log_every=5, window=500),
    )


def train_days(group: Group, runs: list[Run], folder: Path) -> list[int]:
    """Steps at the end of each day."""
    steps = []
    for number, run in enumerate(runs):
        outcome = fit(run, RunFolder(folder), group, resume=number > 0, grow=number > 0)
        steps.append(outcome.position.step)
    return steps


def whole_checkpoint(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a run's last checkpoint, whole, by name."""
    path = latest(folder)
    stored = read_metadata(path).state_dict_metadata
    state: dict[str, Any] = {n: torch.zeros(m.size, dtype=m.properties.dtype) for n, m in stored.items()}  # type: ignore[union-attr]
    with open_group("cpu") as group:
        load(path, state, group)
    return state


def table_in(name: str) -> str | None:
    """The table that a stored tensor's rows belong to."""
    kind, _, rest = name.partition(".")
    if kind == "table_optimizer":
        return table_of(rest.rpartition(".weight.")[0] + ".weight")
    return table_of(rest) if kind == "model" and is_table(rest) else None


def rows_by_id(log: Path, table: str) -> dict[str, int]:
    stored = pq.read_table(vocabulary_path(log, table))
    found = dict(zip(stored["id"].to_pylist(), stored["row"].to_pylist(), strict=True))
    return {i: row for i, row in found.items() if row}


def compare(grown_log: Path, full_log: Path, grown: dict[str, Tensor], full: dict[str, Tensor]) -> dict[str, int]:
    """Asserts equality to the bit, tables by id; returns how many numbers of each kind are equal.

    rows elsewhere: rows of weights and of their state that lie elsewhere in the other model.
    """
    equal = {"table": 0, "table_optimizer": 0, "dense": 0, "rows elsewhere": 0}
    assert grown.keys() == full.keys()
    for name, ours in grown.items():
        theirs, table = full[name], table_in(name)
        if table is not None and has_vocabulary(grown_log, table):
            a, b = rows_by_id(grown_log, table), rows_by_id(full_log, table)
            assert a.keys() == b.keys()
            assert len(ours) == len(a) + 1 == len(theirs)
            order = sorted(a)
            mine, other = [0, *(a[i] for i in order)], [0, *(b[i] for i in order)]
            equal["rows elsewhere"] += sum(x != y for x, y in zip(mine, other, strict=True))
            ours, theirs = ours[mine], theirs[other]
        assert torch.equal(ours, theirs), f"{name}: {int((ours != theirs).sum())} of {ours.numel()} differ"
        kind = "dense" if table is None else "table" if name.startswith("model") else "table_optimizer"
        equal[kind] += ours.numel()
    return equal


def has_vocabulary(log: Path, table: str) -> bool:
    """Whether a table has a vocabulary; hashed rows are the same in every log."""
    schema = load_manifest(log).data_schema
    return next(v for v in schema.vocabularies if v.table == table).hash_rows is None


def packed(run: Run) -> Run:
    """The same with whole users in a batch, which holds events that are history only as well."""
    data = run.data.model_copy(update={"batches": Packed(tokens=256, context=16), "channels": {}})
    return Run(**{**dict(run), "data": data, "tower": HSTUConfig(width=8, heads=2, head_width=4, window=8)})


@pytest.mark.parametrize(("of", "ranks"), [(daily_run, 1), (daily_run, 2), (lambda log: packed(daily_run(log)), 2)])
def test_meeting_items_day_by_day_equals_having_them_from_the_start(
    logs: tuple[list[Path], list[Path]], tmp_path: Path, of: Callable[[Path], Run], ranks: int
) -> None:
    grown_logs, full_logs = logs
    sizes = [load_manifest(log).tables["item"].rows for log in grown_logs]
    assert sizes == sorted(set(sizes)), "every day brings new items"
    assert {load_manifest(log).tables["item"].rows for log in full_logs} == {sizes[-1]}
    steps = run_ranks(train_days, ranks, [of(log) for log in grown_logs], tmp_path / "grown")
    assert steps == run_ranks(train_days, ranks, [of(log) for log in full_logs], tmp_path / "full")
    grown, full = whole_checkpoint(tmp_path / "grown"), whole_checkpoint(tmp_path / "full")
    equal = compare(grown_logs[-1], full_logs[-1], grown, full)
    assert equal["rows elsewhere"] > 20, "the same id has another row in the two runs"
    assert min(equal.values()) > 0
    lines = [json.loads(line)["step"] for line in (tmp_path / "grown" / "metrics.jsonl").read_text().splitlines()]
    assert lines == sorted(lines)
    assert lines[-1] == steps[0][-1]
    assert [line["step"] for line in read_growth(tmp_path / "grown")] == steps[0][:-1]
    before = json.loads((tmp_path / "grown" / f"config-before-step-{steps[0][0]}.json").read_text())
    assert before["data"]["log"] == str(grown_logs[0])
    assert RunFolder(tmp_path / "grown").load_run().data.log == str(grown_logs[-1])


@pytest.fixture(scope="module")
def day_one(logs: tuple[list[Path], list[Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of day 1 that reads fewer features than it will."""
    folder = tmp_path_factory.mktemp("runs") / "day1"
    with open_group("cpu") as group:
        fit(daily_run(logs[0][0], ("dwell", "page", "income")), RunFolder(folder), group, resume=False)
    return folder


@pytest.fixture
def begun(day_one: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(day_one, tmp_path / "run"))


def go_on(run: Run, folder: Path, grow: bool = True) -> int:
    with open_group("cpu") as group:
        return fit(run, RunFolder(folder), group, resume=True, grow=grow).position.step


def test_rows_tables_and_features_are_added_and_what_was_trained_stays(
    logs: tuple[list[Path], list[Path]], begun: Path
) -> None:
    old_log, new_log = logs[0][:2]
    stored, manifest = whole_checkpoint(begun), load_manifest(new_log)
    run = daily_run(new_log)
    with open_group("cpu") as group:
        built = build_run(run, group)
        trainer = Trainer(run, RunFolder(begun), built)
        growth = trainer.start(True, True)
        parallel, dense = built.parallel, trainer.stepper.dense_optimizer
        live = training_state(parallel.model, parallel.fused_optimizer, dense, parallel.dense_parameters)
        starts = {s.table: (s.weight.clone(), s.offset) for s in local_shards(parallel.model)}
        grown = 0
        for kind, name, value in [(k, f"{k}.{n}", v) for k, part in live.items() for n, v in leaves(part)]:
            table = table_in(name)
            if table is None:
                continue
            found = value.local_shards()[0].tensor if hasattr(value, "local_shards") else value
            if name not in stored:
                assert table == "page", name
                continue
            old = stored[name]
            assert torch.equal(found[: len(old)], old), name
            grown += len(found) - len(old)
            assert kind == "model" or not found[len(old) :].any(), "new rows have no optimizer state"
    assert grown > 0
    # Ids that the new day brings have rows before it is trained, at their own first values.
    new_ids = {i: row for i, row in rows_by_id(new_log, "item").items() if i not in rows_by_id(old_log, "item")}
    assert new_ids
    assert max(new_ids.values()) < manifest.tables["item"].rows
    for table, ids in (("item", new_ids), ("page", rows_by_id(new_log, "page"))):
        weight, offset = starts[table]
        assert offset == (0, 0)
        names = sorted(ids)
        expected = normal_rows(run.train.seed, table, hash64(names), 4, run.embedding.init_std)
        assert np.array_equal(weight[[ids[n] for n in names]].numpy(), expected)
    assert growth is not None
    assert growth.tables["page"] == (0, manifest.tables["page"].rows)
    assert growth.inputs == ("event.page", "impression.page", "user.income")
    assert trainer.position.first_step == trainer.position.step > 0
    assert (trainer.position.epoch, trainer.position.batch) == (0, 0)


def leaves(part: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in part.items():
        found += leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return found


def test_a_run_killed_after_it_grew_grows_again_and_one_that_ended_stays_as_it_is(
    logs: tuple[list[Path], list[Path]], begun: Path, tmp_path: Path
) -> None:
    run = daily_run(logs[0][1])
    other = Path(shutil.copytree(begun, tmp_path / "other"))
    with open_group("cpu") as group:
        built = build_run(run, group)
        growth = Trainer(run, RunFolder(begun), built).start(True, True)
        assert growth is not None
        settle_growth(RunFolder(begun), growth, run, built.manifest)
    with pytest.raises(CheckpointError, match=r"the data changed; .* with --grow"):
        go_on(run, begun, grow=False)
    end = go_on(run, begun)
    assert go_on(run, other) == end
    ours, theirs = whole_checkpoint(begun), whole_checkpoint(other)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    # The option may stay in a launcher's command: nothing is left to grow.
    assert go_on(run, begun) == end
    assert go_on(run, begun, grow=False) == end
    assert len(read_growth(begun)) == 1
    assert committed(begun)[-1][0] == end


def test_steps_of_a_day_and_its_schedule_begin_anew(logs: tuple[list[Path], list[Path]], begun: Path) -> None:
    first = committed(begun)[-1][0]
    run = override(daily_run(logs[0][1]), ["train.max_steps=3", "train.log_every=1"])
    assert go_on(run, begun) == first + 3
    lines = [json.loads(line) for line in (begun / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"][-3:] == [first + 1, first + 2, first + 3]
    assert go_on(override(run, ["train.max_steps=5"]), begun) == first + 5


def test_the_learning_rate_comes_back_with_a_new_log(logs: tuple[list[Path], list[Path]], tmp_path: Path) -> None:
    """Of a run whose first day ended at a tenth of it."""
    settings = ["schedule.decay=linear", "schedule.end=0.1", "train.max_steps=3", "train.log_every=1"]
    runs = [override(daily_run(log), settings) for log in logs[0][:2]]
    with open_group("cpu") as group:
        assert train_days(group, runs, tmp_path / "run") == [3, 6]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rates = [line["lr"] for line in lines if line["kind"] == "train"]
    assert rates == pytest.approx([0.001, 0.0007, 0.0004] * 2)


@pytest.mark.parametrize(
    ("log", "settings", "error", "words"),
    [
        (2, [], None, ""),
        (
            -1,
            [],
            CheckpointError,
            r"--grow: the checkpoint was trained on .* would stand for other ids",
        ),
        (1, ['embedding.exclude=["dwell", "tags"]'], CheckpointError, r"tag is in the checkpoint only"),
        (1, ['embedding.exclude=["dwell", "price"]'], CheckpointError, r"input '\S*item.price', 1 wide .*, is gone"),
        (1, ["train.seed=9"], ConfigError, r"train.seed was 1, is 9"),
        (1, ["tower.mlp.hidden=[8]"], ConfigError, r"tower.mlp.hidden was"),
    ],
)
def test_what_cannot_grow_is_refused_and_leaves_the_run_as_it_was(
    logs: tuple[list[Path], list[Path]],
    begun: Path,
    log: int,
    settings: list[str],
    error: type[Exception] | None,
    words: str,
) -> None:
    """The first case may: a day was left out, but its log leads to the checkpoint's."""
    target = logs[0][log] if log >= 0 else logs[1][1]
    run = override(daily_run(target), settings)
    if error is None:
        assert go_on(run, begun) > committed(begun)[0][0]
        return
    before = {p.name: p.read_bytes() for p in begun.iterdir() if p.is_file()}
    with pytest.raises(error, match=words):
        go_on(run, begun)
    assert {p.name: p.read_bytes() for p in begun.iterdir() if p.is_file()} == before
