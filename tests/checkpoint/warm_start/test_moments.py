from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ctr_rec.checkpoint.stored_tensor import StoredTensor
from ctr_rec.checkpoint.warm_start.config import TableWarmStart
from ctr_rec.checkpoint.warm_start.moments import Carried, carried_state, clear_state, state_shards
from ctr_rec.checkpoint.warm_start.rows import Piece
from ctr_rec.checkpoint.warm_start.source import from_tensors
from ctr_rec.checkpoint.warm_start.widths import widening
from ctr_rec.errors import ConfigError
from ctr_rec.sharding.group import open_group
from ctr_rec.sharding.tables import OptimizerKind
from tests.sharding.test_parallelize import build, step


def carried(kind: str, dim: int = 4, rule: str = "auto", change: str = "refuse", **states: tuple[int, ...]) -> Carried:
    shapes = {"a.embeddings.t.weight": (9, 4), **{f"o.a.embeddings.t.weight.{k}": s for k, s in states.items()}}
    tensors = {n: (s, [Piece(0, 0, StoredTensor(Path("f"), 0, torch.float32, s))]) for n, s in shapes.items()}
    (table,) = from_tensors("src", "checkpoint", tensors).tables.values()
    settings = TableWarmStart.model_validate({"optimizer_state": rule, "dim": change})
    return carried_state("t", table, OptimizerKind(kind), widening("t", 4, dim, settings), dim, settings)


def test_one_number_per_row_is_carried_whatever_the_width() -> None:
    for key in ("momentum1", "sum"):
        for dim, change in ((4, "refuse"), (8, "pad"), (2, "truncate"), (8, "project")):
            found = carried("rowwise_adagrad", dim, change=change, **{key: (9,)})
            assert found.words == "carried: row-wise Adagrad"
            assert found.reader is not None


def test_one_number_per_element_follows_equal_and_padded_widths_only() -> None:
    assert carried("adagrad", sum=(9, 4)).words == "carried: Adagrad"
    padded = carried("adagrad", 8, change="pad", sum=(9, 4))
    assert padded.words == "carried: Adagrad, padded"
    assert padded.change(torch.ones(1, 4)).tolist() == [[1.0] * 4 + [0.0] * 4]
    for dim, change, word in ((8, "project", "projected"), (2, "truncate", "truncated")):
        found = carried("adagrad", dim, change=change, sum=(9, 4))
        assert found.reader is None
        assert found.words.startswith(f"reset: vectors are {word} 4 to {dim}")


@pytest.mark.parametrize(
    ("kind", "states", "why"),
    [
        ("sgd", {"sum": (9,)}, "our optimizer sgd keeps no state"),
        ("adam", {"exp_avg": (9, 4)}, "adam's moments belong to a step count"),
        ("rowwise_adagrad", {}, "the source has none"),
        (
            "rowwise_adagrad",
            {"sum": (9, 4)},
            "the source keeps one number per element, ours .rowwise_adagrad. doe",
        ),
        ("adagrad", {"momentum1": (9,)}, "the source keeps one number per row, ours .adagrad. does not"),
        (
            "adagrad",
            {"exp_avg": (9, 4), "exp_avg_sq": (9, 4)},
            "the source's optimizer is another kind .it keeps exp",
        ),
        ("adagrad", {"momentum1": (9, 4), "momentum2": (9, 4)}, "another kind .it keeps momentum1, momentum2"),
    ],
)
def test_other_kinds_start_anew_or_are_refused(kind: str, states: dict[str, tuple[int, ...]], why: str) -> None:
    import re

    found = carried(kind, **states)
    assert found.reader is None
    assert re.search(rf"^reset: .*{why}", found.words)
    with pytest.raises(ConfigError, match=rf"table t: optimizer_state=carry, but .*{why}.* to reset, or use"):
        carried(kind, rule="carry", **states)


def test_reset_is_obeyed() -> None:
    assert carried("rowwise_adagrad", rule="reset", sum=(9,)) == Carried("reset, as asked")


@pytest.mark.parametrize("sharding", [{}, {"word": "data_parallel"}])
def test_live_state_is_found_and_cleared(sharding: dict[str, str]) -> None:
    with open_group("cpu") as group:
        parallel = build(group, "rowwise_adagrad", sharding)
        dense = torch.optim.SGD(parallel.dense_parameters.values(), lr=0.1)
        step(parallel, dense, 1)
        for name, rows in (("item", 101), ("word", 30)):
            (shard,) = state_shards(parallel.fused_optimizer, name)
            assert shard.weight.shape == (rows,)
            assert shard.weight.sum() > 0
            clear_state([shard])
            assert sum(s.weight.sum() for s in state_shards(parallel.fused_optimizer, name)) == 0
        assert state_shards(build(group, "sgd", {}).fused_optimizer, "item") == []
