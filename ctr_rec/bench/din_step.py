"""A training step of our DIN and of the padded one: same tables, look-up, context, MLP, loss and optimizers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ctr_rec.batch.batch import Batch
from ctr_rec.bench.din_log import LAST
from ctr_rec.bench.padded_din import PaddedDIN, pad
from ctr_rec.models.baselines.din import DINConfig
from ctr_rec.models.ranker import Ranker
from ctr_rec.schema.table import SparseSpec
from ctr_rec.sharding.group import Group
from ctr_rec.sharding.parallelize import Parallel, parallelize
from ctr_rec.train.run import Run


@dataclass(frozen=True)
class Side:
    """One of the two models on its tables. logits: one call per batch, whatever the model needs besides bound to it."""

    parallel: Parallel
    dense: torch.optim.Optimizer
    clip: float
    batches: list[Batch]
    logits: list[Callable[[], Tensor]]

    def steps(self) -> None:
        """One training step on every batch, as the trainer takes it, without its records."""
        for batch, logit in zip(self.batches, self.logits, strict=True):
            self.dense.zero_grad()
            self.backward(batch, logit())
            torch.nn.utils.clip_grad_norm_(self.parallel.dense_parameters.values(), self.clip)
            self.dense.step()
            self.parallel.fused_optimizer.step()

    def backward(self, batch: Batch, logit_N: Tensor) -> None:
        losses_N = binary_cross_entropy_with_logits(logit_N, batch.label, reduction="none")
        ((losses_N * batch.weight).sum() / batch.global_impressions).backward()

    def gradient_norm(self, index: int) -> tuple[Tensor, Tensor]:
        """Logits of one batch without dropout, and the norm of the dense gradients. The tables take their step."""
        self.parallel.model.eval()
        self.dense.zero_grad()
        logit_N = self.logits[index]()
        self.backward(self.batches[index], logit_N)
        norms = [p.grad.norm() for p in self.parallel.dense_parameters.values() if p.grad is not None]
        self.parallel.model.train()
        return logit_N.detach(), torch.stack(norms).norm()


def both_sides(run: Run, spec: SparseSpec, group: Group, batches: list[Batch]) -> dict[str, Side]:
    """The sides "ours" and "padded", beginning from the same values. Rectangles are made beforehand, as by a loader."""
    config, channels = run.tower, tuple(run.data.channels)
    assert isinstance(config, DINConfig)
    assert run.dense.clip is not None
    ranker, padded = Ranker(spec, config, channels), PaddedDIN(spec, config, channels)
    padded.take_weights(ranker)
    rectangles = [pad(batch, LAST) for batch in batches]
    ours, plain = (parallelize(model, spec.tables, run.sharding, group, run.train.seed) for model in (ranker, padded))
    logits = {
        "ours": (ours, [lambda b=b: ours.model(b) for b in batches]),
        "padded": (plain, [lambda b=b, r=r: plain.model(b, r) for b, r in zip(batches, rectangles, strict=True)]),
    }
    return {
        name: Side(parallel, run.dense.build(parallel.dense_parameters.values()), run.dense.clip, batches, calls)
        for name, (parallel, calls) in logits.items()
    }


def difference(sides: dict[str, Side]) -> float:
    """Largest relative difference of logits (in norm) and of the norm of the gradient, on every batch in turn.

    Each batch moves the tables of both, so that from the second on the tables' gradients are compared too.
    """
    found = 0.0
    for index in range(len(sides["ours"].batches)):
        (ours_N, our_norm), (plain_N, plain_norm) = (side.gradient_norm(index) for side in sides.values())
        found = max(found, float((ours_N - plain_N).norm() / plain_N.norm()))
        found = max(found, float((our_norm - plain_norm).abs() / plain_norm))
    return found
