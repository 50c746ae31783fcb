from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ctr_rec.checkpoint.stored_tensor import StoredTensor
from ctr_rec.checkpoint.warm_start.rows import Piece
from ctr_rec.checkpoint.warm_start.source import Source, from_tensors
from ctr_rec.errors import CheckpointError


def opened(dtype: torch.dtype = torch.float32, **shapes: tuple[int, ...]) -> Source:
    """A source of tensors of these shapes; names are given with _ for dots where Python asks for it."""
    tensors = {name: (shape, [Piece(0, 0, StoredTensor(Path("f"), 0, dtype, shape))]) for name, shape in shapes.items()}
    return from_tensors("here", "checkpoint", tensors)


def test_names_say_what_is_a_table_what_its_state_and_what_is_dense() -> None:
    found = opened(
        **{
            "model.sparse.ebc.embedding_bags.age.weight": (9, 4),
            "model.ec.embeddings.item.weight": (20, 8),
            "optim.state.sparse.ebc.embedding_bags.age.weight.age.momentum1": (9,),
            "table_optimizer.ec.embeddings.item.weight.item.exp_avg": (20, 8),
            "table_optimizer.ec.embeddings.item.weight.item.exp_avg_sq": (20, 8),
            "state.other.embeddings.gone.weight.sum": (3,),
            "model.over.0.weight": (5, 5),
        }
    )
    assert {t.name for t in found.tables.values()} == {"age", "item"}
    age, item = found.find("age"), found.find("item")
    assert age is not None
    assert item is not None
    assert list(age.states) == ["momentum1"]
    assert age.states["momentum1"].flat
    assert sorted(item.states) == ["exp_avg", "exp_avg_sq"]
    assert list(found.dense) == ["model.over.0.weight"]
    assert found.find("nothing") is None
    assert found.offered("itm") == "item"


def test_a_state_of_one_column_is_one_number_per_row() -> None:
    found = opened(**{"a.embeddings.t.weight": (9, 4), "o.a.embeddings.t.weight.sum": (9, 1)})
    (table,) = found.tables.values()
    assert table.states["sum"].flat


def test_tables_of_one_name_must_be_told_apart_and_keep_their_own_state() -> None:
    found = opened(
        **{
            "model.embeddings.t.weight": (9, 4),
            "ema.embeddings.t.weight": (9, 4),
            "optim.model.embeddings.t.weight.t.momentum1": (9,),
        }
    )
    with pytest.raises(CheckpointError, match=r"here has 2 tables 't': ema.embeddings.t.weight, model.embeddings.t"):
        found.find("t")
    table = found.find("model.embeddings.t.weight")
    assert table is not None
    assert list(table.states) == ["momentum1"]


def test_two_states_that_fit_alike_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"table a.embeddings.t.weight has two optimizer states momentum1"):
        opened(
            **{
                "a.embeddings.t.weight": (9, 4),
                "x.embeddings.t.weight.momentum1": (9,),
                "y.embeddings.t.weight.momentum1": (9,),
            }
        )


def test_a_table_that_is_no_matrix_of_floats() -> None:
    with pytest.raises(CheckpointError, match=r"table a.embeddings.t.weight has shape \(9, 4\) and dtype torch.int8"):
        opened(dtype=torch.int8, **{"a.embeddings.t.weight": (9, 4)})
    with pytest.raises(CheckpointError, match=r"has shape \(9,\)"):
        opened(**{"a.embeddings.t.weight": (9,)})
