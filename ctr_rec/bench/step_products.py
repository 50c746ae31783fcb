"""The matrix products of a training step: which ones it makes, and how long they take bare, on random numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

_FIRST_FACTOR = {"mm": 0, "bmm": 0, "addmm": 1, "addmm_": 1, "baddbmm": 1, "baddbmm_": 1}
Shape = tuple[tuple[int, ...], tuple[int, ...]]

# By the beginning of an operation's name, the first that fits.
_GROUPS = (
    ("matrix products", ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm")),
    (
        "loop over blocks: calls, runs and copies of the bias",
        ("BlockedAttention", "aten::index_select", "aten::gather"),
    ),
    ("gradient of the bias", ("aten::scatter_add",)),
    ("softmax", ("aten::exp2", "aten::amax", "aten::sub", "aten::sum", "aten::log")),
    ("layer norm", ("aten::native_layer_norm",)),
    ("dropout", ("aten::bernoulli",)),
    ("feed-forward's activation and gate", ("aten::gelu", "aten::sigmoid")),
    ("tables", ("fbgemm", "split_embedding", "SplitLookup", "torch::autograd::CppNode<SplitLookup", "aten::embedding")),
    ("optimizers", ("Optimizer", "aten::_foreach", "aten::_fused")),
    ("plans, and what the model does in Python", ("DistributedDataParallel",)),
    ("views and copies", ("aten::slice", "aten::as_strided", "aten::view", "aten::narrow", "aten::copy_", "aten::cat")),
)


class Products(TorchDispatchMode):
    """Records the two factors' shapes of every product made under it."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[Shape] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        place = _FIRST_FACTOR.get(func.overloadpacket.__name__)
        if place is not None:
            self.shapes.append((tuple(args[place].shape), tuple(args[place + 1].shape)))
        return func(*args, **(kwargs or {}))


def bare(shapes: list[Shape]) -> Callable[[], None]:
    """A function that makes the products one after another, with `torch.mm` and `torch.bmm` on tensors made before."""
    factors: dict[Shape, tuple[Tensor, Tensor]] = {
        shape: (torch.randn(shape[0]), torch.randn(shape[1])) for shape in set(shapes)
    }
    calls = [(torch.mm if len(shape[0]) == 2 else torch.bmm, *factors[shape]) for shape in shapes]

    def replay() -> None:
        for multiply, a, b in calls:
            multiply(a, b)

    return replay


def flops(shapes: list[Shape]) -> int:
    return sum(2 * int(torch.Size(a).numel()) * b[-1] for a, b in shapes)


def shares(step: Callable[[], object]) -> dict[str, float]:
    """Share of a step's time by kind of operation, largest first. The profiler slows small operations most."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        step()
    found: dict[str, float] = {}
    for event in recorded.key_averages():
        group = next((name for name, starts in _GROUPS if event.key.startswith(starts)), "everything else")
        found[group] = found.get(group, 0.0) + event.self_cpu_time_total
    total = sum(found.values())
    return {name: found[name] / total for name in sorted(found, key=lambda name: -found[name])}
