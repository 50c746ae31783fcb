"""A small run over any log that has a label `liked`, for tests of the trainer."""

from pathlib import Path

from ctr_rec.batch.config import Channel, DataConfig, Pointwise
from ctr_rec.models.baselines.din import DINConfig
from ctr_rec.schema.table import EmbeddingSettings
from ctr_rec.train.run import Checkpointing, Run, TrainConfig


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
