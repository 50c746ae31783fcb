"""One training step: batch -> logit -> loss -> gradients -> both optimizers."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from ctr_rec.batch.batch import Batch
from ctr_rec.errors import ConfigError
from ctr_rec.sharding.parallelize import Parallel
from ctr_rec.train.optimizers import DenseOptimizer


@dataclass(frozen=True)
class StepResult:
    """logit: [N] detached. loss_sum: sum of this rank's weighted losses, float64 scalar."""

    logit: Tensor
    loss_sum: Tensor


def bce_sum(logit: Tensor, batch: Batch) -> Tensor:
    """Sum of binary cross-entropies over this rank's impressions; weight 0 drops the stand-in of an empty rank."""
    losses = functional.binary_cross_entropy_with_logits(logit.float(), batch.label, reduction="none")
    return (losses * batch.weight).sum()


def resolve_precision(wanted: Literal["auto", "fp32", "bf16"], device: torch.device) -> torch.dtype:
    """bf16 where the device computes in it; asked for elsewhere it is refused, as it would only be slow."""
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported()
    else:
        has_bf16 = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.cpu._is_avx512_bf16_supported()
    if wanted == "bf16" and not has_bf16:
        raise ConfigError(f"train.precision=bf16 needs a device with bf16 arithmetic, got {device}; set it to fp32")
    # On CPU automatic means fp32: bit-exact resume on any machine is worth more there than speed.
    use = wanted == "bf16" or (wanted == "auto" and has_bf16 and device.type == "cuda")
    return torch.bfloat16 if use else torch.float32


class Stepper:
    """Runs training steps on a parallelised ranker. The loss is the mean over the *global* batch."""

    def __init__(self, parallel: Parallel, dense: DenseOptimizer, world: int, dtype: torch.dtype) -> None:
        self.parallel = parallel
        self.clip = dense.clip
        self.base_lr = dense.lr
        self.dense_parameters = list(parallel.dense_parameters.values())
        self.dense_optimizer = dense.build(self.dense_parameters)
        self.world = world
        self.dtype = dtype

    def autocast(self, device_type: str) -> contextlib.AbstractContextManager[object]:
        if self.dtype is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(device_type, self.dtype)

    def step(self, batch: Batch, lr_factor: float) -> StepResult:
        """One step. DDP and TorchRec divide gradients by the number of ranks, so the local sum is scaled by it."""
        for group in self.dense_optimizer.param_groups:
            group["lr"] = self.base_lr * lr_factor
        self.parallel.set_table_lr(lr_factor)
        self.dense_optimizer.zero_grad(set_to_none=True)
        with self.autocast(batch.label.device.type):
            logit = self.parallel.model(batch)
        loss_sum = bce_sum(logit, batch)
        (loss_sum * (self.world / max(1, batch.global_impressions))).backward()
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.dense_parameters, self.clip)
        self.dense_optimizer.step()
        # Without this call every step, the tables' learning rate never changes.
        self.parallel.fused_optimizer.step()
        return StepResult(logit=logit.detach().float(), loss_sum=loss_sum.detach().double())
