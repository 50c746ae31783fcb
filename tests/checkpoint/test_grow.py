"""Where a model grows, old rows, columns and their optimizer state stay to the bit; what cannot is refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)

from ctr_rec.batch.batch import Batch, Level
from ctr_rec.checkpoint.grow import GrowPlanner, Growth, check_growth
from ctr_rec.checkpoint.manifest import Manifest, read_manifest
from ctr_rec.checkpoint.state import materialise, training_state
from ctr_rec.checkpoint.store import load, save
from ctr_rec.errors import CheckpointError
from ctr_rec.layers.context import ContextSettings
from ctr_rec.layers.layout import Axes, Layout
from ctr_rec.models.baselines.hstu import HSTUConfig
from ctr_rec.models.ranker import Ranker
from ctr_rec.models.tower import Filling, TowerConfig
from ctr_rec.schema.manifest import LogManifest
from ctr_rec.schema.table import SparseSpec, Table
from ctr_rec.sharding.group import Group, open_group
from ctr_rec.sharding.initial import normal_rows
from ctr_rec.sharding.parallelize import Parallel, parallelize
from ctr_rec.sharding.plan import ShardingConfig
from ctr_rec.sharding.tables import TableOptimizer
from tests.checkpoint.test_store import assert_equal, state_of, whole_state
from tests.models.streams import CHANNELS, ITEMS_ONLY, SPEC, make_batch, random_log, spec_of
from tests.models.test_no_leak import CASES, PROFILE_TOKENS
from tests.models.test_tower import TOKENS_MEET
from tests.ranks import run_ranks
from tests.sharding.small import SmallRanker, tables
from tests.sharding.test_parallelize import OTHERWISE, SPREAD, step

MORE = {"item": 150, "genre": 7, "age": 12, "word": 31}


def numbers(name: str, first: int, stop: int) -> np.ndarray:
    return np.arange(first, stop) * 7 + 1


def specs(rows: dict[str, int], sharding: dict[str, str]) -> list[Table]:
    return [t.model_copy(update={"rows": rows.get(t.name, t.rows)}) for t in tables(**sharding)]


def start(group: Group, kind: str, of: list[Table]) -> tuple[Parallel, torch.optim.Optimizer]:
    config = ShardingConfig(optimizer=TableOptimizer.model_validate({"kind": kind, "lr": 0.1}))
    parallel = parallelize(SmallRanker(of), of, config, group, 3, numbers)
    return parallel, torch.optim.AdamW(parallel.dense_parameters.values(), lr=0.01)


def stored_as(of: list[Table]) -> Manifest:
    return Manifest(step=6, data_fingerprint="old", tables={t.name: (t.rows, t.dim) for t in of})


def train_and_save(group: Group, folder: Path, kind: str, sharding: dict[str, str]) -> dict[str, np.ndarray]:
    parallel, dense = start(group, kind, specs({}, sharding))
    for k in range(6):
        step(parallel, dense, k)
    save(folder, state_of(parallel, dense), stored_as(tables()), {}, group)
    return whole_state(parallel, dense)


def load_grown(
    group: Group, folder: Path, kind: str, sharding: dict[str, str]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    parallel, dense = start(group, kind, specs(MORE, sharding))
    planner = GrowPlanner(read_manifest(folder), {})
    load(folder, state_of(parallel, dense), group, planner=planner)
    planner.settle()
    at_load = whole_state(parallel, dense, specs(MORE, {}))
    for k in range(6, 9):
        step(parallel, dense, k)
    return at_load, whole_state(parallel, dense, specs(MORE, {}))


def check_rows(before: dict[str, np.ndarray], now: dict[str, np.ndarray]) -> None:
    """Old rows to the bit, new rows at their start by number, their optimizer state zero, dense weights to the bit."""
    assert before.keys() == now.keys()
    of = {t.name: t for t in tables()}
    for name, old in before.items():
        kind, _, rest = name.partition("/")
        assert np.array_equal(now[name][: len(old)] if old.ndim else now[name], old), name
        if kind == "table":
            t = of[rest.rpartition("/")[2].removesuffix(".weight").rpartition(".")[2]]
            new = normal_rows(3, t.name, numbers(t.name, t.rows, MORE[t.name]), t.dim, t.init_std)
            assert np.array_equal(now[name][t.rows :], new), name
        elif kind == "moment":
            assert len(now[name]) == MORE[rest.partition(".")[0]]
            assert not now[name][len(old) :].any()


@pytest.mark.parametrize(
    ("kind", "saved", "loaded"),
    [
        ("rowwise_adagrad", SPREAD, OTHERWISE),
        ("adagrad", {"item": "column_wise"}, {"item": "row_wise", "word": "data_parallel"}),
    ],
)
@pytest.mark.parametrize(("save_ranks", "load_ranks"), [(1, 2), (2, 1), (2, 3)])
def test_tables_grow_on_any_ranks_under_any_placement(
    tmp_path: Path, kind: str, saved: dict[str, str], loaded: dict[str, str], save_ranks: int, load_ranks: int
) -> None:
    folder = tmp_path / "c"
    before = run_ranks(train_and_save, save_ranks, folder, kind, saved if save_ranks > 1 else {})[0]
    results = run_ranks(load_grown, load_ranks, folder, kind, loaded if load_ranks > 1 else {})
    for at_load, after in results:
        check_rows(before, at_load)
        for name, value in after.items():
            assert np.isfinite(value).all(), name
            if name.startswith("table/") and "item" in name:
                assert not np.array_equal(value, at_load[name]), "it trains on"


def test_without_growing_another_size_is_refused(tmp_path: Path) -> None:
    with open_group("cpu") as group:
        train_and_save(group, tmp_path / "c", "sgd", {})
        parallel, dense = start(group, "sgd", specs(MORE, {}))
        with pytest.raises(CheckpointError, match=r"Size mismatch between saved .*9, 4.* and current: .*12, 4"):
            load(tmp_path / "c", state_of(parallel, dense), group)


# Dense layers: inputs taken away at the front of every level, so that all others stand elsewhere.
FEWER = SPEC.model_copy(
    update={
        "user": SPEC.user[1:],
        "item": SPEC.item[1:],
        "event": SPEC.event[1:],
        "counters": SPEC.counters[1:],
        "tables": tuple(t for t in SPEC.tables if t.name == "genre"),
    }
)
BARE = ITEMS_ONLY.model_copy(update={"tables": tuple(t for t in SPEC.tables if t.name == "item")})
NO_CONTEXT = ContextSettings(use_time=False)
TOWERS: dict[str, TowerConfig] = {
    **{n: config for n, config in CASES.items() if n not in PROFILE_TOKENS and not n.startswith(TOKENS_MEET)},
    "hstu_without_time": HSTUConfig(width=8, heads=2, head_width=3, window=4, context=NO_CONTEXT),
}


def ranker(config: TowerConfig, spec: SparseSpec, seed: int) -> Ranker:
    torch.manual_seed(seed)
    channels = tuple(CHANNELS) if config.filling is Filling.POINTWISE else ()
    made = Ranker(spec, config, channels, front_device="cpu").eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.3)
    return made


def small_batch(config: TowerConfig, spec: SparseSpec) -> Batch:
    def level(values: Level) -> Level:
        vectors = {k: v.float() for k, v in values.vectors.items()}
        return replace(values, numbers={k: v.float() for k, v in values.numbers.items()}, vectors=vectors)

    batch = make_batch(random_log(1), config.filling, spec)
    return replace(batch, **{n: level(getattr(batch, n)) for n in ("users", "items", "events", "impressions")})


def dense_of(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {n: p for n, p in model.named_parameters() if "embedding" not in n}


def with_adamw(model: torch.nn.Module, fill: bool) -> tuple[dict[str, Any], torch.optim.AdamW]:
    dense = dense_of(model)
    optimizer = torch.optim.AdamW(dense.values(), lr=0.01)
    materialise(optimizer)
    if fill:
        for entry in optimizer.state.values():
            for value in entry.values():
                value.uniform_()
    return training_state(model, None, optimizer, dense), optimizer


def labels(axes: Axes | None, shape: tuple[int, ...]) -> list[list[str]]:
    """A name for every place along every axis, by a plain loop."""
    out = []
    for axis, length in enumerate(shape):
        layout: Layout | None = axes[axis] if axes is not None else None
        names = [f"{name}[{k}]" for name, width in layout for k in range(width)] if layout is not None else None
        out.append(names if names is not None else [str(k) for k in range(length)])
    return out


def check_columns(name: str, old: torch.Tensor, new: torch.Tensor, before: Axes | None, now: Axes | None) -> None:
    """Number by number: what has a counterpart equals it to the bit, all else is zero."""
    stored = {}
    old_labels, new_labels = labels(before, tuple(old.shape)), labels(now, tuple(new.shape))
    for place in np.ndindex(*old.shape):
        stored[tuple(of[k] for of, k in zip(old_labels, place, strict=True))] = old[place].item()
    found = {}
    for place in np.ndindex(*new.shape):
        found[tuple(of[k] for of, k in zip(new_labels, place, strict=True))] = new[place].item()
    assert stored.keys() <= found.keys(), name
    assert found == {key: stored.get(key, 0.0) for key in found}, name


@pytest.mark.parametrize("config", TOWERS.values(), ids=TOWERS)
@pytest.mark.parametrize("fewer", [FEWER, BARE], ids=["fewer", "items only"])
def test_a_tower_grows_by_inputs_and_scores_as_before(config: TowerConfig, fewer: SparseSpec, tmp_path: Path) -> None:
    fewer, whole = spec_of(config, fewer), spec_of(config)
    old, new = ranker(config, fewer, 1), ranker(config, whole, 2)
    stored = Manifest(
        step=1, tables={t.name: (t.rows, t.dim) for t in fewer.tables}, layouts=old.axes(), data_fingerprint="a"
    )
    old_state, old_optimizer = with_adamw(old, fill=True)
    new_state, new_optimizer = with_adamw(new, fill=True)
    start_of_new = {n: p.detach().clone() for n, p in new.named_parameters()}
    with open_group("cpu") as group:
        save(tmp_path / "c", old_state, stored, {}, group)
        planner = GrowPlanner(read_manifest(tmp_path / "c"), new.axes())
        load(tmp_path / "c", new_state, group, planner=planner)
        planner.settle()
    with torch.no_grad():
        before, now = old(small_batch(config, fewer)), new(small_batch(config, whole))
    assert torch.allclose(before, now, atol=1e-5), (before - now).abs().max()
    assert before.std() > 1e-4
    was = dict(old.named_parameters())
    for name, p in new.named_parameters():
        if "embedding" in name:
            assert torch.equal(p, was[name] if name in was else start_of_new[name]), name
            continue
        axes = old.axes().get(name), new.axes().get(name)
        source = was.get(name)
        if source is None:
            assert not p.any(), f"{name} is new and changes nothing"
            assert not any(v.any() for v in new_optimizer.state[p].values())
            continue
        check_columns(name, source, p, *axes)
        for key, value in old_optimizer.state[source].items():
            found = new_optimizer.state[p][key]
            check_columns(f"{name} {key}", value, found, *(axes if value.dim() else (None, None)))
    grown = check_growth(stored, log_of("a"), whole, new.axes())
    read = {name for of in new.axes().values() for layout in of if layout for name, _ in layout}
    assert "user.user" in grown.inputs or "user.user" not in read
    assert grown.inputs
    assert grown.tables["slot"] == (0, 3)


def test_new_columns_learn_from_the_first_step() -> None:
    config = CASES["din"]
    model = ranker(config, SPEC, 1)
    with torch.no_grad():
        model.get_parameter("tower.mlp.layers.0.weight")[:, :4] = 0
    model(small_batch(config, SPEC)).sum().backward()
    gradient = model.get_parameter("tower.mlp.layers.0.weight").grad
    assert gradient is not None
    assert gradient[:, :4].any()


def log_of(fingerprint: str, *grown_from: str) -> LogManifest:
    return LogManifest.model_construct(fingerprint=fingerprint, grown_from=grown_from)


def test_what_grew_is_said() -> None:
    sizes = {t.name: (t.rows, t.dim) for t in SPEC.tables if t.name != "slot"} | {"item": (30, 4)}
    layouts: dict[str, Axes] = {"w": (None, (("item.item", 4),))}
    stored = Manifest(step=3, data_fingerprint="a", tables=sizes, layouts=layouts)
    axes: dict[str, Axes] = {"w": (None, (("item.brand", 2), ("item.item", 4))), "v": ((("item.brand", 2),), None)}
    found = check_growth(stored, log_of("c", "b", "a"), SPEC, axes)
    assert found == Growth(
        tables={"genre": (5, 5), "item": (30, 40), "slot": (0, 3), "user": (8, 8)},
        inputs=("item.brand",),
        new_log=True,
        since=stored,
    )
    assert found.is_any
    assert not check_growth(stored.model_copy(update={"tables": {}}), log_of("a"), SPEC, layouts).new_log
    same = Growth(tables={"item": (3, 3)}, inputs=(), new_log=False, since=stored)
    assert not same.is_any


@pytest.mark.parametrize(
    ("stored", "log", "words"),
    [
        ({}, log_of("b"), "has b and grew from no other log: its rows would stand for other ids; prepare it with"),
        ({}, log_of("b", "c", "d"), "has b and grew from c, d: its rows"),
        ({"item": (50, 4)}, log_of("b", "a"), "item had 50 rows, has 40; restore the recipe and the log"),
        ({"item": (40, 8)}, log_of("a"), "item was 8 wide, is 4"),
        ({"brand": (3, 4)}, log_of("a"), "brand is in the checkpoint only"),
    ],
)
def test_rows_that_would_stand_for_something_else_are_refused(stored: Any, log: LogManifest, words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        check_growth(Manifest(step=1, data_fingerprint="a", tables=stored), log, SPEC, {})
    assert words in str(caught.value)
    assert str(caught.value).startswith("--grow: ")


WIDTHS = (("item.a", 2), ("item.b", 1))


@pytest.mark.parametrize(
    ("old", "new", "before", "now", "words"),
    [
        (None, None, (3, 3), (3, 4), r"head.weight was \[3, 3\], is \[3, 4\], and nothing says which of its columns"),
        (None, (None, (*WIDTHS, ("c", 1))), (3, 3), (3, 4), r"head.weight was \[3, 3\], is \[3, 4\], and nothing says"),
        ((None, WIDTHS), (None, WIDTHS[:1]), (3, 3), (3, 2), r"head.weight: input 'item.b', 1 wide .*, is gone"),
        ((None, WIDTHS), (None, (("item.a", 3), ("item.b", 1))), (3, 3), (3, 4), r"'item.a', 2 wide .*, is 3 wide"),
        (
            (None, WIDTHS),
            (None, WIDTHS),
            (3, 3),
            (5, 3),
            r"an axis that no input decides was 3 long, is 5",
        ),
    ],
)
def test_a_layer_that_no_layout_explains_is_refused_by_name(
    tmp_path: Path, old: Any, new: Any, before: Any, now: Any, words: str
) -> None:
    layouts = {} if old is None else {"head.weight": old}
    with open_group("cpu") as group:
        state = {"model": {"head.weight": torch.rand(before)}}
        save(tmp_path / "c", state, Manifest(step=1, layouts=layouts), {}, group)
        planner = GrowPlanner(read_manifest(tmp_path / "c"), {} if new is None else {"head.weight": new})
        with pytest.raises(CheckpointError, match=words) as caught:
            load(tmp_path / "c", {"model": {"head.weight": torch.rand(now)}}, group, planner=planner)
    assert "start a new run with a warm start instead" in str(caught.value)


@pytest.mark.parametrize(
    ("stored", "live", "words"),
    [
        ({"a": 3}, {"a": 3, "b": 3}, "b is not in the checkpoint and belongs to no input that is new"),
        ({"a": 3, "b": 3}, {"a": 3}, "the model has no model.b, which the checkpoint holds: a feature, a table or"),
        (
            {"x.embeddings.t.weight": 3},
            {"x.embeddings.t.weight": 2},
            "embeddings.t.weight was [3], is [2]: only rows",
        ),
        ({"a": 1}, {"a": 1, "x.embeddings.t.weight": 2}, "x.embeddings.t.weight is not in the checkpoint, which has"),
    ],
)
def test_what_one_side_lacks_is_refused_by_name(
    tmp_path: Path, stored: dict[str, int], live: dict[str, int], words: str
) -> None:
    with open_group("cpu") as group:
        state = {"model": {name: torch.rand(n) for name, n in stored.items()}}
        save(tmp_path / "c", state, Manifest(step=1, tables={"t": (3, 1)}), {}, group)
        planner = GrowPlanner(read_manifest(tmp_path / "c"), {})
        with pytest.raises(CheckpointError) as caught:
            load(tmp_path / "c", {"model": {n: torch.rand(k) for n, k in live.items()}}, group, planner=planner)
    assert words in str(caught.value)


def test_stored_rows_that_do_not_cover_the_old_table_are_refused() -> None:
    """As an index that lost a rank's file would have it."""
    chunks = [ChunkStorageMetadata(torch.Size([0, 0]), torch.Size([2, 4]))]
    properties = TensorProperties(dtype=torch.float32)
    stored = TensorStorageMetadata(properties=properties, size=torch.Size([3, 4]), chunks=chunks)
    name = "x.embeddings.t.weight"
    planner = GrowPlanner(Manifest(step=1), {})
    planner.set_up_planner({"model": {name: torch.zeros(5, 4)}}, Metadata({f"model.{name}": stored}), True)
    with pytest.raises(CheckpointError, match=r"t.weight: expected 12 stored numbers for this rank, found 8; copy it"):
        planner.create_local_plan()


def test_columns_of_equal_width_that_changed_places_move_by_name(tmp_path: Path) -> None:
    old: Axes = ((("item.a", 1), ("item.b", 1)),)
    new: Axes = ((("item.b", 1), ("item.a", 1)),)
    found = torch.zeros(2)
    with open_group("cpu") as group:
        save(
            tmp_path / "c", {"model": {"w": torch.tensor([1.0, 2.0])}}, Manifest(step=1, layouts={"w": old}), {}, group
        )
        planner = GrowPlanner(read_manifest(tmp_path / "c"), {"w": new})
        load(tmp_path / "c", {"model": {"w": found}}, group, planner=planner)
        planner.settle()
    assert found.tolist() == [2.0, 1.0]


def test_a_model_without_more_loads_as_ever(tmp_path: Path) -> None:
    """The same state through either planner."""
    with open_group("cpu") as group:
        expected = train_and_save(group, tmp_path / "c", "rowwise_adagrad", {})
        parallel, dense = start(group, "rowwise_adagrad", specs({}, {}))
        planner = GrowPlanner(read_manifest(tmp_path / "c"), {})
        load(tmp_path / "c", state_of(parallel, dense), group, planner=planner)
        planner.settle()
        assert_equal(whole_state(parallel, dense), expected)
