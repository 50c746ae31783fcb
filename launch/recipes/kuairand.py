"""Runs on KuaiRand-Pure: was a shown video clicked? Twelve kinds of feedback are the actions of past events.

ctr-rec prepare data/kuairand_pure --raw FOLDER --out logs/kuairand_pure
ctr-rec train launch/recipes/kuairand.py:din --run-dir runs/kuairand_din
"""

from ctr_rec.batch.config import Channel, DataConfig, Packed, Pointwise
from ctr_rec.models.baselines.dcn_v2 import DCNv2Config
from ctr_rec.models.baselines.din import DINConfig
from ctr_rec.models.baselines.hstu import HSTUConfig
from ctr_rec.models.grab.config import Behaviours
from ctr_rec.models.grab.tower import GRABConfig
from ctr_rec.models.tower import TowerConfig
from ctr_rec.schema.table import EmbeddingSettings
from ctr_rec.sharding.plan import ShardingConfig
from ctr_rec.sharding.tables import TableOptimizer
from ctr_rec.train.optimizers import DenseOptimizer
from ctr_rec.train.run import Checkpointing, Run, TrainConfig, Validation

LOG = "logs/kuairand_pure"
# Action codes: 1 to 7 are a click and what is stronger.
CLICKED = (1, 2, 3, 4, 5, 6, 7)
# Most users have a few impressions here and up to fifty exposures from before.
SPAN = 128


def _run(name: str, batches: Pointwise | Packed, tower: TowerConfig, channels: dict[str, Channel]) -> Run:
    return Run(
        name=name,
        data=DataConfig(log=LOG, label="is_click", batches=batches, channels=channels),
        tower=tower,
        embedding=EmbeddingSettings(dim=16),
        sharding=ShardingConfig(optimizer=TableOptimizer(lr=0.02)),
        dense=DenseOptimizer(lr=1e-3, clip=10.0),
        train=TrainConfig(epochs=3, threads=1 if isinstance(batches, Packed) else None),
        validation=Validation(metric="auc", patience=1),
        checkpoint=Checkpointing(keep=1),
    )


def din() -> Run:
    """Target attention over the last 50 exposures of any outcome."""
    return _run("din", Pointwise(impressions=1024), DINConfig(), {"recent": Channel(last=50)})


def dcn_v2() -> Run:
    """Explicit crosses of the candidate, its context and the mean of the last 50 exposures."""
    return _run("dcn_v2", Pointwise(impressions=1024), DCNv2Config(), {"recent": Channel(last=50)})


def hstu() -> Run:
    """Whole users packed, two layers."""
    return _run("hstu", Packed(tokens=8192, context=2 * SPAN), HSTUConfig(window=SPAN), {})


def grab() -> Run:
    """Whole users packed, one layer and two channels: all exposures, and those that were clicked."""
    channels = {"all": Behaviours(window=SPAN), "clicked": Behaviours(actions=CLICKED, window=SPAN // 2)}
    tower = GRABConfig(layers=1, span=SPAN, channels=channels, shared_tokenizer=True, start_alike=True)
    return _run("grab", Packed(tokens=8192, context=2 * SPAN), tower, {})
