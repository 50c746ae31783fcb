"""Which backend computes a call: "bucketed", or as asked where it can.

"auto" is bucketed on every device. On CPU by measurement (see `bucketed.py`); on CUDA because it is made of batched
products, while fbgemm's operators copy the keys that impressions share and know float32 alone.
"""

from __future__ import annotations

from typing import Literal

import torch

from ctr_rec.errors import ConfigError

Backend = Literal["auto", "bucketed", "fbgemm", "reference"]
BACKENDS: tuple[Backend, ...] = ("auto", "bucketed", "fbgemm", "reference")


def choose(backend: Backend, dtype: torch.dtype) -> Backend:
    """The backend to run, never "auto". Raises ConfigError for an unknown one and where it cannot compute this call."""
    if backend not in BACKENDS:
        raise ConfigError(f"cross_attention: backend must be one of {BACKENDS}, got: {backend!r}")
    if backend == "fbgemm" and dtype != torch.float32:
        raise ConfigError(
            f"cross_attention: backend 'fbgemm' expects float32, the dtype of fbgemm's jagged operators, got: {dtype}; "
            "use 'auto'"
        )
    return "bucketed" if backend == "auto" else backend
