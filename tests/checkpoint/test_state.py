from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer

from ctr_rec.checkpoint.state import materialise, training_state


def test_materialising_changes_no_weight_and_keeps_gradients() -> None:
    model = torch.nn.Linear(3, 2)
    model(torch.ones(1, 3)).sum().backward()
    weight, gradient = model.weight.detach().clone(), model.weight.grad
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5, weight_decay=0.5)
    materialise(optimizer)
    assert torch.equal(model.weight, weight)
    assert model.weight.grad is gradient
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert all(not v.any() for entry in optimizer.state.values() for v in entry.values())
    other = torch.nn.Linear(3, 2)
    other.load_state_dict(model.state_dict())
    plain = torch.optim.AdamW(other.parameters(), lr=0.5, weight_decay=0.5)
    other(torch.ones(1, 3)).sum().backward()
    for o in (optimizer, plain):
        o.step()
    assert torch.equal(model.weight, other.weight)
    assert torch.equal(model.bias, other.bias)


def test_only_what_has_no_state_yet_is_made() -> None:
    layers = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW([*layers[0].parameters(), *layers[1].parameters()], lr=0.1)
    layers[0](torch.ones(1, 2)).sum().backward()
    optimizer.step()
    moments = {p: optimizer.state[p]["exp_avg"].clone() for p in layers[0].parameters()}
    materialise(optimizer)
    for parameter, moment in moments.items():
        assert torch.equal(optimizer.state[parameter]["exp_avg"], moment)
        assert optimizer.state[parameter]["step"] == 1
    for parameter in layers[1].parameters():
        assert optimizer.state[parameter]["step"] == 0


def test_names_and_aliases() -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    state = training_state(model, None, optimizer, dict(model.named_parameters()))
    assert set(state["dense_optimizer"]) == {"weight", "bias"}
    state["model"]["weight"].fill_(3.0)
    state["dense_optimizer"]["bias"]["momentum_buffer"].fill_(2.0)
    assert model.weight.detach().tolist() == [[3.0, 3.0]]
    assert optimizer.state[model.bias]["momentum_buffer"].tolist() == [2.0]


def test_plain_sgd_has_nothing_to_store() -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert training_state(model, None, optimizer, dict(model.named_parameters())).keys() == {"model"}


def test_state_that_is_no_tensor_is_our_mistake() -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.state[model.weight]["words"] = "many"
    with pytest.raises(AssertionError, match=r"cannot be stored: \['words'\]"):
        training_state(model, None, optimizer, dict(model.named_parameters()))


def test_adams_step_counters_are_live_and_named_by_table() -> None:
    """Adam for tables runs on CUDA only, so the kernels are stand-ins with what the function reads."""

    def fused(kind: EmbOptimType, table: str) -> KeyedOptimizer:
        optimizer = KeyedOptimizer({f"{table}.weight": torch.zeros(1)}, {}, [])
        optimizer._emb_module = SimpleNamespace(optimizer=kind, iter=torch.zeros(1, dtype=torch.int64))
        return optimizer

    inner = CombinedOptimizer([("", fused(EmbOptimType.ADAM, "item")), ("", fused(EmbOptimType.EXACT_SGD, "age"))])
    outer = CombinedOptimizer([("front.collection.embeddings", inner)])
    state = training_state(torch.nn.Linear(1, 1), outer)
    assert state["table_step"].keys() == {"item"}
    state["table_step"]["item"].fill_(7)
    assert training_state(torch.nn.Linear(1, 1), outer)["table_step"]["item"].tolist() == [7]
