"""The dense optimizer, the learning-rate schedule, and clipping. Tables have their own, fused in backward."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ctr_rec.config import Config


class DenseOptimizer(Config):
    """AdamW for everything but tables. clip: largest global gradient norm of the dense weights; None never clips."""

    lr: float = Field(default=1e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    clip: float | None = Field(default=None, gt=0)

    def build(self, parameters: Iterable[Tensor]) -> torch.optim.AdamW:
        """State is allocated at once: loading a checkpoint needs every entry to exist before the first step."""
        optimizer = torch.optim.AdamW(
            list(parameters), lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay
        )
        for group in optimizer.param_groups:
            for p in group["params"]:
                optimizer.state[p] = {
                    "step": torch.zeros(()),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
        return optimizer


class Schedule(Config):
    """Factor on every learning rate, dense and tables: linear warm-up, then constant, linear or cosine decay."""

    warmup_steps: int = Field(default=0, ge=0)
    decay: Literal["constant", "linear", "cosine"] = "constant"
    end: float = Field(default=0.0, ge=0, le=1)

    def factor(self, step: int, total_steps: int) -> float:
        """step counts from 0; total_steps of the whole run."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.decay == "constant":
            return 1.0
        share = min(1.0, (step - self.warmup_steps) / max(1, total_steps - self.warmup_steps))
        fall = share if self.decay == "linear" else 0.5 * (1 - math.cos(math.pi * share))
        return 1.0 - (1.0 - self.end) * fall
