from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ctr_rec.sharding.group import open_group
from ctr_rec.sharding.replicated import ReplicatedOptimizer
from ctr_rec.sharding.tables import OptimizerKind, TableOptimizer
from tests.sharding.test_parallelize import build, step, whole_tables

NAME = "bags.embedding_bags.age.weight"


@pytest.mark.parametrize("kind", ["sgd", "adagrad", "rowwise_adagrad"])
def test_replicated_tables_train_like_fused_ones(kind: str) -> None:
    results = []
    for placement in ("table_wise", "data_parallel"):
        with open_group("cpu") as group:
            parallel = build(group, kind, {"age": placement, "word": placement})
            dense = torch.optim.SGD(parallel.dense_parameters.values(), lr=0.1)
            for k in range(30):
                step(parallel, dense, k)
            state = parallel.fused_optimizer.state_dict()["state"].get(NAME, {})
            whole = {k: v.local_shards()[0].tensor if placement == "table_wise" else v for k, v in state.items()}
            results.append((whole_tables(parallel), whole))
    (fused, fused_state), (replicated, replicated_state) = results
    assert fused_state.keys() == replicated_state.keys()
    for name in ("age", "word"):
        np.testing.assert_allclose(replicated[name], fused[name], rtol=0, atol=1e-6)
    for key, value in fused_state.items():
        np.testing.assert_allclose(replicated_state[key], value, rtol=1e-5)


def test_rows_without_gradient_and_parameters_without_gradient_stay() -> None:
    weight, idle = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3, 2))
    config = TableOptimizer(kind=OptimizerKind.ROWWISE_ADAGRAD, lr=1.0)
    names = {"x.embedding_bags.a.weight": weight, "x.embedding_bags.b.weight": idle}
    optimizer = ReplicatedOptimizer(names, dict.fromkeys(names, 1.0), config)
    weight.grad = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 1.0]])
    optimizer.step()
    expected = torch.tensor([[1 - 3 / 12.5**0.5, 1 - 4 / 12.5**0.5], [1.0, 1.0], [0.0, 0.0]])
    torch.testing.assert_close(weight.detach(), expected)
    assert torch.equal(idle, torch.ones(3, 2))
    assert weight.grad is None
    optimizer.step()
    torch.testing.assert_close(weight.detach(), expected)
    weight.grad = torch.ones(3, 2)
    optimizer.zero_grad()
    assert weight.grad is None
