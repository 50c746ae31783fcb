"""One pass of a training step: batch -> logits -> loss -> gradients -> the optimizers of what it trains."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctr_rec.batch.batch import Batch
from ctr_rec.errors import ConfigError
from ctr_rec.models.ranker import BESIDE, Branch
from ctr_rec.sharding.parallelize import Parallel
from ctr_rec.train.optimizers import DenseOptimizer
from ctr_rec.train.stage import Loss, Part, Pass

JOINT = Pass()


@dataclass(frozen=True)
class StepResult:
    """logit: [N] detached, of the tower, or of the second network where it is alone in the loss.

    loss_sum: sum of this rank's weighted losses, float64 scalar: without the second network's where that is another.
    beside_sum: the second network's, None where it has none of its own.
    """

    logit: Tensor
    loss_sum: Tensor
    beside_sum: Tensor | None = None


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
    """Runs passes on a parallelised ranker. The loss is the mean over the *global* batch."""

    def __init__(self, parallel: Parallel, dense: DenseOptimizer, world: int, dtype: torch.dtype) -> None:
        self.parallel = parallel
        self.clip = dense.clip
        self.base_lr = dense.lr
        self.parts: dict[Part, list[nn.Parameter]] = {Part.SEQUENCE: [], Part.BESIDE: []}
        for name, parameter in parallel.dense_parameters.items():
            self.parts[Part.BESIDE if name.startswith(BESIDE) else Part.SEQUENCE].append(parameter)
        self.dense_optimizer = dense.build(parallel.dense_parameters.values())
        self.world = world
        self.dtype = dtype

    def autocast(self, device_type: str) -> contextlib.AbstractContextManager[object]:
        if self.dtype is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(device_type, self.dtype)

    def forget_beside(self) -> None:
        """The second network is no longer there: its optimizer state goes, all else stays."""
        for parameter in self.parts[Part.BESIDE]:
            self.dense_optimizer.state.pop(parameter, None)
        self.parts[Part.BESIDE] = []
        for group in self.dense_optimizer.param_groups:
            group["params"] = self.parts[Part.SEQUENCE]

    def step(self, batch: Batch, lr_factor: float, one: Pass = JOINT, weight: float = 1.0) -> StepResult:
        """One pass. DDP and TorchRec divide gradients by the number of ranks, so the local sum is scaled by it.

        weight: of the second network in a loss of both.
        """
        for group in self.dense_optimizer.param_groups:
            group["lr"] = self.base_lr * lr_factor
        self.parallel.set_table_lr(lr_factor)
        self.dense_optimizer.zero_grad(set_to_none=True)
        for part, parameters in self.parts.items():
            for parameter in parameters:
                parameter.requires_grad_(part in one.trains)
        with self.autocast(batch.label.device.type):
            logit = self.parallel.model(batch, branch=one.loss.branch, train_tables=Part.TABLES in one.trains)
        loss, result = _loss(logit, batch, one.loss, weight)
        (loss * (self.world / max(1, batch.global_impressions))).backward()
        if self.clip is not None:
            # Each by itself: how far the tower moves does not hang on how large the other's gradient is.
            for parameters in self.parts.values():
                torch.nn.utils.clip_grad_norm_(parameters, self.clip)
        self.dense_optimizer.step()  # passes over what has no gradient
        if Part.TABLES in one.trains:
            # Without this call every step, the tables' learning rate never changes.
            self.parallel.fused_optimizer.step()
        return result


def _loss(logit: Tensor, batch: Batch, loss: Loss, weight: float) -> tuple[Tensor, StepResult]:
    if loss.branch is not Branch.BOTH:
        total = bce_sum(logit, batch)
        return total, StepResult(logit.detach().float(), total.detach().double())
    sequence_N, beside_N = logit.unbind()
    if loss is Loss.STACKED:
        total = bce_sum(sequence_N + weight * beside_N, batch)
        return total, StepResult(sequence_N.detach().float(), total.detach().double())
    own, other = bce_sum(sequence_N, batch), bce_sum(beside_N, batch)
    result = StepResult(sequence_N.detach().float(), own.detach().double(), other.detach().double())
    return own + weight * other, result
