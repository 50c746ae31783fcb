"""What of a training run goes into a checkpoint as tensors, under names that no plan and no rank count changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType as OptimType
from torch import Tensor, nn
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer


def training_state(
    model: nn.Module,
    table_optimizer: KeyedOptimizer | None = None,
    dense_optimizer: torch.optim.Optimizer | None = None,
    dense_parameters: Mapping[str, nn.Parameter] | None = None,
) -> dict[str, Any]:
    """Live tensors, nested by name: `model`, `table_optimizer`, `table_step` (Adam), `dense_optimizer`.

    Saving reads them, loading writes into them; nothing needs to be assigned back. Dense optimizer state that does not
    exist yet is made first, as a load can only fill what is there.

    Args:
        model: wrapped or not; `Parallel.model` in training.
        table_optimizer: `Parallel.fused_optimizer`.
        dense_optimizer, dense_parameters: any torch optimizer, and the names of what it trains.
    """
    state: dict[str, Any] = {"model": model.state_dict()}
    if table_optimizer is not None:
        tables = table_optimizer.state_dict()["state"]
        # A table under plain SGD has an entry without content, which a checkpoint does not hold.
        state["table_optimizer"] = {name: entry for name, entry in tables.items() if entry}
        state["table_step"] = dict(_adam_steps(table_optimizer))
    if dense_optimizer is not None:
        assert dense_parameters is not None, "the dense optimizer's state is stored by parameter name"
        materialise(dense_optimizer)
        names = {id(parameter): name for name, parameter in dense_parameters.items()}
        state["dense_optimizer"] = {
            names[id(parameter)]: _tensors(entry) for parameter, entry in dense_optimizer.state.items() if entry
        }
    # An empty dict would be stored as an entry of its own, and be missing when another optimizer's run looks for it.
    return {name: entry for name, entry in state.items() if entry}


def _adam_steps(optimizer: KeyedOptimizer) -> Iterator[tuple[str, Tensor]]:
    """Live step counters by table, which Adam's bias correction needs and TorchRec's optimizer state lacks.

    The kernel takes up a loaded counter with its first look-up: load before training.
    """
    if isinstance(optimizer, CombinedOptimizer):
        for _, part in optimizer.optimizers:
            yield from _adam_steps(part)
        return
    kernel = getattr(optimizer, "_emb_module", None)
    if kernel is not None and kernel.optimizer is OptimType.ADAM:
        for name in optimizer.params:
            yield name.removesuffix(".weight").rsplit(".", 1)[-1], kernel.iter


def _tensors(entry: Mapping[str, Any]) -> dict[str, Tensor]:
    kept = {key: value for key, value in entry.items() if value is not None}
    others = sorted(key for key, value in kept.items() if not isinstance(value, Tensor))
    assert not others, f"optimizer state that is no tensor cannot be stored: {others}"
    return kept


def materialise(optimizer: torch.optim.Optimizer) -> None:
    """Makes the state that the optimizer would make in its first step, as zeros; no parameter moves."""
    fresh = [p for g in optimizer.param_groups for p in g["params"] if not optimizer.state.get(p)]
    if not fresh:
        return
    gradients = {p: p.grad for g in optimizer.param_groups for p in g["params"]}
    rates = [g["lr"] for g in optimizer.param_groups]
    made = {id(p) for p in fresh}
    for parameter in gradients:
        parameter.grad = torch.zeros_like(parameter) if id(parameter) in made else None
    for group in optimizer.param_groups:
        group["lr"] = torch.zeros_like(group["lr"]) if isinstance(group["lr"], Tensor) else 0.0
    optimizer.step()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    for parameter, gradient in gradients.items():
        parameter.grad = gradient
    for parameter in fresh:
        for value in optimizer.state[parameter].values():
            if isinstance(value, Tensor):
                value.zero_()
