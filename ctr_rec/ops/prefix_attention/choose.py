"""Which backend computes a call: "blocked", or as asked where it can.

On CPU "auto" is blocked by measurement: padding with fbgemm took twice the blocked path's processor time where all
users had 165 events, forward and backward, window 256, and 39 times where they had 171 on average and the longest 627;
FlexAttention has no backward there. On CUDA it is blocked because nothing else has run there: FlexAttention, one kernel
that keeps no pair in memory, should be the choice for softmax once the tests marked gpu and a bench have said so. Until
then it is there for the asking.
"""

from __future__ import annotations

import importlib.util
from typing import Literal

import torch
from torch import Tensor

from ctr_rec.errors import ConfigError

Backend = Literal["auto", "blocked", "fbgemm", "flex", "reference"]
BACKENDS: tuple[Backend, ...] = ("auto", "blocked", "fbgemm", "flex", "reference")
# Narrower matrix products than these do not exist in Triton.
_LEAST_WIDTH = 16


def choose(backend: Backend, kind: str, q_QHE: Tensor, v_THV: Tensor) -> Backend:
    """The backend to run, never "auto". Raises ConfigError where the one asked for cannot compute this call."""
    if backend == "auto":
        return "blocked"
    obstacle = None
    if backend == "flex":
        obstacle = _flex_obstacle(kind, q_QHE, v_THV)
    elif backend == "fbgemm" and v_THV.dtype != torch.float32:
        obstacle = f"expects float32, the dtype of fbgemm's jagged operators, got: {v_THV.dtype}"
    if obstacle is not None:
        raise ConfigError(f"prefix_attention: backend {backend!r} {obstacle}; use 'auto' or 'blocked'")
    return backend


def _flex_obstacle(kind: str, q_QHE: Tensor, v_THV: Tensor) -> str | None:
    """Why FlexAttention cannot compute this, as "expects ..., got: ..."; None where it can."""
    if kind != "softmax":
        return f"expects kind 'softmax', got: {kind!r}"
    if not q_QHE.is_cuda:
        return None
    if importlib.util.find_spec("triton") is None:
        return "expects Triton, which compiles its kernel, got: no package named triton"
    if v_THV.dtype == torch.float64:
        return "expects float32, bfloat16 or float16 on CUDA, got: torch.float64"
    widths = (q_QHE.shape[2], v_THV.shape[2])
    if min(widths) < _LEAST_WIDTH:
        return f"expects heads of width {_LEAST_WIDTH} or more on CUDA, got: {widths} of queries and values"
    return None
