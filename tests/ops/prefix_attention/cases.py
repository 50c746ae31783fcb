"""Packed users of every awkward length, with tied times, and one call that returns the output and every gradient."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ctr_rec.ops.prefix_attention import QueryBias, RelativeBias, plan_blocks, prefix_attention

HEADS, WIDTH, VALUE_WIDTH, POSITIONS, BUCKETS = 3, 5, 7, 9, 6
AWKWARD = (7, 0, 1, 33, 2, 91)


@dataclass(frozen=True)
class Case:
    """Queries are the history tokens, then as many candidates. A candidate sees what is strictly before its time."""

    tensors: dict[str, Tensor]
    lo: Tensor
    hi: Tensor
    query_time: Tensor
    key_time: Tensor
    user_of_query: Tensor
    user_of_key: Tensor

    @property
    def num_keys(self) -> int:
        return len(self.key_time)

    def bias(self, position: bool = True, time: bool = True, edges: Tensor | None = None) -> RelativeBias:
        return RelativeBias(
            position_PH=self.tensors["position"] if position else None,
            time_BH=self.tensors["time"] if time else None,
            query_time_Q=self.query_time,
            key_time_T=self.key_time,
            time_edges_G=edges,
        )

    def query_bias(self, position: bool = True, time: bool = True, edges: Tensor | None = None) -> QueryBias:
        return QueryBias(
            position_PE=self.tensors["position_codes"] if position else None,
            time_BE=self.tensors["time_codes"] if time else None,
            query_time_Q=self.query_time,
            key_time_T=self.key_time,
            time_edges_G=edges,
        )

    def on(self, device: str) -> Case:
        """The case with every tensor moved, the learnable ones as fresh leaves."""
        learnable = {name: tensor.detach().to(device).requires_grad_() for name, tensor in self.tensors.items()}
        others = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, tensors=learnable, **others)

    def changed(self, **tensors: Tensor) -> Case:
        return replace(self, tensors={**self.tensors, **tensors})


def make_case(
    lengths: tuple[int, ...] = AWKWARD,
    window: int = 20,
    dtype: torch.dtype = torch.float64,
    own: str = "candidates",
    own_keys: int | None = None,
) -> Case:
    """own: "candidates" (the last half of the queries), "all" or "none" carry an own key and value;
    own_keys of them, or None for one without a dimension of its own."""
    generator = torch.Generator().manual_seed(sum(lengths) + window)
    lo, hi, times, users = ([], []), ([], []), [], []
    start = 0
    for user, length in enumerate(lengths):
        time = torch.randint(0, 5_000, (length,), generator=generator).sort().values
        time[1 : length // 4] = time[:1]
        for queries, ends in enumerate(((time <= time[:, None]).sum(1), (time < time[:, None]).sum(1))):
            lo[queries].append(start + (ends - window).clamp(min=0))
            hi[queries].append(start + ends)
        times.append(time)
        users.append(torch.full((length,), user))
        start += length
    empty = torch.zeros(0, dtype=torch.int64)
    time, user = torch.cat([empty, *times]), torch.cat([empty, *users])
    num_own = {"none": 0, "candidates": start, "all": 2 * start}[own]

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    tensors = {
        "q": leaf(2 * start, HEADS, WIDTH),
        "k": leaf(start, HEADS, WIDTH),
        "v": leaf(start, HEADS, VALUE_WIDTH),
        "position": leaf(POSITIONS, HEADS),
        "time": leaf(BUCKETS, HEADS),
    }
    if own != "none":
        rows = (num_own,) if own_keys is None else (num_own, own_keys)
        tensors |= {"own_k": leaf(*rows, HEADS, WIDTH), "own_v": leaf(*rows, HEADS, VALUE_WIDTH)}
    tensors |= {"position_codes": leaf(POSITIONS, WIDTH), "time_codes": leaf(BUCKETS, WIDTH)}
    return Case(
        tensors=tensors,
        lo=torch.cat([empty, *lo[0], *lo[1]]),
        hi=torch.cat([empty, *hi[0], *hi[1]]),
        query_time=torch.cat([time, time]),
        key_time=time,
        user_of_query=torch.cat([user, user]),
        user_of_key=user,
    )


def attend(case: Case, bias: RelativeBias | QueryBias | None, **options: Any) -> Tensor:
    """The op on the case; options are those of prefix_attention, and `limits` and `by_runs` those of the plan."""
    limits, by_runs = options.pop("limits", None), options.pop("by_runs", None)
    options = {"kind": "silu", "scale": 0.4, "norm": "constant", "norm_constant": 3.0, **options}
    tensors = case.tensors
    if limits is not None or by_runs is not None:
        options["plan"] = plan_blocks(
            case.lo,
            case.hi,
            case.num_keys,
            num_positions=0 if bias is None else bias.num_positions,
            num_buckets=0 if bias is None else bias.num_buckets,
            query_time_Q=case.query_time,
            key_time_T=case.key_time,
            time_edges_G=None if bias is None else bias.time_edges_G,
            joint=not isinstance(bias, QueryBias),
            by_runs=by_runs,
            limits=limits,
        )
    return prefix_attention(
        tensors["q"],
        tensors["k"],
        tensors["v"],
        case.lo,
        case.hi,
        tensors.get("own_k"),
        tensors.get("own_v"),
        bias,
        **options,
    )


def output_and_gradients(case: Case, bias: RelativeBias | QueryBias | None, **options: Any) -> dict[str, Tensor]:
    """The output, and the gradient of an uneven function of it for each tensor of the case (zeros where unused)."""
    out = attend(case, bias, **options)
    uneven = torch.linspace(-3, 5, out.numel(), dtype=out.dtype).view_as(out).cos()
    leaves = list(case.tensors.values())
    grads = torch.autograd.grad((out * uneven).sum(), leaves, allow_unused=True, materialize_grads=True)
    return {"out": out.detach(), **dict(zip(case.tensors, grads, strict=True))}
