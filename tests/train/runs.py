"""Small runs over any log that has a label `liked`, for tests of the trainer; and what of a model has moved."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensor

from ctr_rec.batch.config import Channel, DataConfig, Packed, Pointwise
from ctr_rec.checkpoint.state import training_state
from ctr_rec.models.baselines.din import DINConfig
from ctr_rec.models.grab.config import Behaviours
from ctr_rec.models.grab.tower import GRABConfig
from ctr_rec.models.ranker import BESIDE
from ctr_rec.schema.table import EmbeddingSettings
from ctr_rec.train.build import Built
from ctr_rec.train.run import Checkpointing, Run, TrainConfig
from ctr_rec.train.stage import Part
from ctr_rec.train.step import Stepper


def small_run(log: Path, epochs: int = 2) -> Run:
    """DIN of width 4 on batches of 64 impressions, with dropout, so that random state matters on resume."""
    return Run(
        name="small",
        data=DataConfig(
            log=str(log),
            label="liked",
            batches=Pointwise(impressions=64),
            channels={"all": Channel(last=8)},
            buffer_row_groups=2,
        ),
        tower=DINConfig(),
        embedding=EmbeddingSettings(dim=4, exclude=("dwell",)),
        train=TrainConfig(epochs=epochs, log_every=3, record_impressions=True, threads=1, window=500),
        checkpoint=Checkpointing(every=4),
    )


def run_with_beside(log: Path, epochs: int = 2) -> Run:
    """One-channel GRAB on packed batches with the small run's DIN beside it, by Sequence-Then-Sparse."""
    run = small_run(log, epochs)
    tower = GRABConfig(width=8, heads=2, head_width=3, ffn=8, span=6, channels={"all": Behaviours(window=6)})
    return run.model_copy(
        update={
            "name": "with beside",
            "tower": tower,
            "beside": run.tower,
            "data": run.data.model_copy(update={"batches": Packed(tokens=150, context=12)}),
            "train": run.train.model_copy(update={"strategy": "sequence_then_sparse"}),
        }
    )


def moved(before: dict[str, bytes], after: dict[str, bytes]) -> set[Part]:
    """Parts of which anything differs, weight or optimizer state."""
    assert before.keys() == after.keys()
    return {_part(name) for name in before if before[name] != after[name]}


def bytes_of(built: Built, stepper: Stepper) -> dict[str, bytes]:
    """Everything that a checkpoint of this rank would hold, by name."""
    parallel = built.parallel
    state = training_state(parallel.model, parallel.fused_optimizer, stepper.dense_optimizer, parallel.dense_parameters)
    return {name: value.detach().cpu().numpy().tobytes() for name, value in _tensors(state, "")}


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, ShardedTensor):
        for number, shard in enumerate(value.local_shards()):
            yield f"{name}#{number}", shard.tensor
    elif isinstance(value, Tensor):
        yield name, value
    else:
        for key, entry in value.items():
            yield from _tensors(entry, f"{name}/{key}")


def _part(name: str) -> Part:
    if "embedding" in name:
        return Part.TABLES
    return Part.BESIDE if f"/{BESIDE}" in name else Part.SEQUENCE
