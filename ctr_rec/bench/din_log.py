"""What the DIN bench reads of a prepared log: item ids in two histories and the profile, as FuxiCTR's DIN does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from ctr_rec.batch.batch import Batch, Jagged
from ctr_rec.batch.config import Channel, DataConfig, Pointwise
from ctr_rec.layers.context import ContextSettings
from ctr_rec.models.baselines.din import DINConfig
from ctr_rec.schema.log import Kind, LogSchema, Side
from ctr_rec.schema.manifest import load_manifest
from ctr_rec.schema.table import EmbeddingSettings
from ctr_rec.sharding.plan import ShardingConfig
from ctr_rec.sharding.tables import TableOptimizer
from ctr_rec.train.optimizers import DenseOptimizer
from ctr_rec.train.run import Checkpointing, Run, TrainConfig

WIDTH, LAST = 16, 50


def textbook_run(log: Path, steps: int, impressions: int) -> Run:
    """DIN on item ids and profile, no times, no order: `steps` training steps of `impressions` each.

    The actions are split in a lower and an upper half, a channel each: on MovieLens one to three stars, four and five.
    """
    schema = load_manifest(log).data_schema
    codes = tuple(range(len(schema.actions)))
    half = (len(codes) + 1) // 2
    halves = {"lower": codes[:half], "upper": codes[half:]}
    channels = {name: Channel(actions=actions, last=LAST) for name, actions in halves.items() if actions}
    return Run(
        name="din",
        data=DataConfig(
            log=str(log), label=schema.labels[0], batches=Pointwise(impressions=impressions), channels=channels
        ),
        tower=DINConfig(
            context=ContextSettings(use_request=False, use_counters=False, use_time=False),
            use_action=False,
            use_age=False,
            use_order=False,
        ),
        embedding=EmbeddingSettings(dim=WIDTH, exclude=_not_read(schema)),
        sharding=ShardingConfig(optimizer=TableOptimizer(lr=0.05)),
        dense=DenseOptimizer(lr=1e-3, clip=10.0),
        train=TrainConfig(max_steps=steps, log_every=steps),
        checkpoint=Checkpointing(keep=1),
    )


def _not_read(schema: LogSchema) -> tuple[str, ...]:
    """All but the item's id, the first category of the item's side, and the user's categories."""
    ids = [f.name for f in schema.features if f.side is Side.ITEM and f.kind is Kind.CATEGORY][:1]
    profile = [f.name for f in schema.features if f.side is Side.USER and f.table is not None]
    features = [f.name for f in schema.features if f.name not in (*ids, *profile)]
    return (*features, *(counter.name for counter in schema.counters))


def density(batches: list[Batch]) -> float:
    """Share of the padded positions of histories of `LAST` events each that hold an event."""
    pairs = sum(h.values.shape[0] for b in batches for h in b.histories.values())
    return pairs / sum(len(b.histories) * b.num_impressions * LAST for b in batches)


def thin(batch: Batch, share: float) -> Batch:
    """The batch with every history cut to its newest events, about `share` of them."""
    return replace(batch, histories={name: _newest(h, share) for name, h in batch.histories.items()})


def _newest(history: Jagged, share: float) -> Jagged:
    lengths_N = history.lengths()
    keep_N = (lengths_N * share + 0.5).long()
    offsets_N1 = torch.zeros_like(history.offsets)
    torch.cumsum(keep_N, dim=0, out=offsets_N1[1:])
    first_N = history.offsets[1:] - keep_N
    within = torch.arange(int(offsets_N1[-1])) - offsets_N1[:-1].repeat_interleave(keep_N)
    return Jagged(history.values[first_N.repeat_interleave(keep_N) + within], offsets_N1)
