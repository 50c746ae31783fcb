"""The loss is the mean over the global batch, however its impressions are shared between ranks."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ctr_rec.errors import ConfigError
from ctr_rec.sharding.group import open_group
from ctr_rec.train.build import build
from ctr_rec.train.optimizers import DenseOptimizer
from ctr_rec.train.step import Stepper, bce_sum, resolve_precision
from tests.batch.logs import random_users, write_log
from tests.train.runs import small_run


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("log")
    write_log(folder, random_users(seed=5, count=20))
    return folder


def test_a_step_moves_dense_weights_and_tables_by_the_mean_loss(log: Path) -> None:
    with open_group("cpu") as group:
        built = build(small_run(log), group)
        stepper = Stepper(built.parallel, DenseOptimizer(lr=0.01), 1, torch.float32)
        batch = next(iter(built.reader("train", 1).batches(0)))
        before = {k: p.detach().clone() for k, p in built.parallel.dense_parameters.items()}
        tables = {k: v.local_shards()[0].tensor.clone() for k, v in built.parallel.fused_optimizer.params.items()}
        result = stepper.step(batch, lr_factor=1.0)
        # The textbook loss, by the rule and not by our function.
        probability = torch.sigmoid(result.logit.double())
        wanted = -torch.where(batch.label > 0, probability.log(), (1 - probability).log()).sum()
        assert float(result.loss_sum) == pytest.approx(float(wanted), rel=1e-5)
        moved = [k for k, p in built.parallel.dense_parameters.items() if not torch.equal(p, before[k])]
        assert "head.weight" in moved
        for name, table in built.parallel.fused_optimizer.params.items():
            assert not torch.equal(table.local_shards()[0].tensor, tables[name]), f"{name} was not trained"


def test_a_rate_of_zero_moves_nothing(log: Path) -> None:
    with open_group("cpu") as group:
        built = build(small_run(log), group)
        stepper = Stepper(built.parallel, DenseOptimizer(lr=0.01), 1, torch.float32)
        batch = next(iter(built.reader("train", 1).batches(0)))
        stepper.step(batch, lr_factor=0.0)
        before = {k: v.local_shards()[0].tensor.clone() for k, v in built.parallel.fused_optimizer.params.items()}
        dense = {k: p.detach().clone() for k, p in built.parallel.dense_parameters.items()}
        stepper.step(batch, lr_factor=0.0)
        for name, table in built.parallel.fused_optimizer.params.items():
            assert torch.equal(table.local_shards()[0].tensor, before[name])
        assert all(torch.equal(p, dense[k]) for k, p in built.parallel.dense_parameters.items())


def test_the_stand_in_of_an_empty_rank_weighs_nothing(log: Path) -> None:
    with open_group("cpu") as group:
        built = build(small_run(log), group)
        batch = next(iter(built.reader("train", 1).batches(0)))
    nothing = replace(batch, weight=torch.zeros_like(batch.weight))
    logit = torch.randn(batch.num_impressions, requires_grad=True)
    loss = bce_sum(logit, nothing)
    loss.backward()
    assert float(loss) == 0.0
    assert logit.grad is not None
    assert not logit.grad.any()


def test_precision_on_the_cpu_is_fp32_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert resolve_precision("auto", cpu) is torch.float32
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    with pytest.raises(ConfigError, match=r"train.precision=bf16 needs a device with bf16 arithmetic, got cpu"):
        resolve_precision("bf16", cpu)
