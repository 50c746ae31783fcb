"""Optimizer of tables that every rank holds whole (`sharding: data_parallel`).

TorchRec gives such a table no optimizer at all: without one it would silently never learn. State is named and shaped
as the fused optimizers have it, so that a checkpoint loads under any placement.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchrec.optim.keyed import KeyedOptimizer

from ctr_rec.sharding.tables import OptimizerKind, TableOptimizer, table_of


class ReplicatedOptimizer(KeyedOptimizer):
    """SGD, Adagrad or row-wise Adagrad with fbgemm's formulas: p -= lr g / (sqrt(sum of g^2) + eps).

    Gradients arrive averaged over ranks by the DDP that TorchRec puts around such tables. Rows that no rank looked up
    have gradient zero and stay as they are.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], lrs: Mapping[str, float], config: TableOptimizer
    ) -> None:
        self._kind = config.kind
        self._eps = config.eps
        state = {p: _fresh_state(config.kind, table_of(name), p) for name, p in parameters.items()}
        groups = [{"params": [p], "lr": lrs[name]} for name, p in parameters.items()]
        super().__init__(dict(parameters), state, groups)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for parameter in self.params.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group["lr"])
        # A fused table's gradient is gone after its step; a caller may count on that for all tables. Not sooner:
        # TorchRec keeps several tables in one parameter, and its tables share one gradient.
        self.zero_grad()

    def _update(self, parameter: Tensor, gradient: Tensor, lr: float) -> None:
        if self._kind is OptimizerKind.SGD:
            parameter.sub_(lr * gradient)
            return
        (total,) = self.state[parameter].values()
        if self._kind is OptimizerKind.ROWWISE_ADAGRAD:
            total.add_(gradient.square().mean(dim=1))
            parameter.sub_(lr * gradient / (total.sqrt() + self._eps)[:, None])
        else:
            total.add_(gradient.square())
            parameter.sub_(lr * gradient / (total.sqrt() + self._eps))


def _fresh_state(kind: OptimizerKind, table: str, parameter: Tensor) -> dict[str, Tensor]:
    if kind is OptimizerKind.SGD:
        return {}
    shape = parameter.shape[:1] if kind is OptimizerKind.ROWWISE_ADAGRAD else parameter.shape
    return {f"{table}.momentum1": torch.zeros(shape, dtype=parameter.dtype, device=parameter.device)}
