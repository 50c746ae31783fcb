"""EST's rivals on MovieLens-1M's early cut: what they read is the same for all of them.

    ctr-rec train launch/recipes/field.py:rankmixer --run-dir runs/rankmixer --set train.seed=3

Fields every model reads: film (id, genres, year), the rating level of the user's 50 newest events, their order and age,
the user's profile, hour and weekday of the request.
"""

from ctr_rec.batch.config import Channel, DataConfig, Pointwise
from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.models.baselines.autoint import AutoIntConfig
from ctr_rec.models.baselines.hiformer import HiFormerConfig
from ctr_rec.models.baselines.rankmixer import RankMixerConfig
from ctr_rec.models.baselines.token_dcn_v2 import TokenDCNv2Config
from ctr_rec.models.baselines.token_mlp import TokenMLPConfig
from ctr_rec.models.tower import TowerConfig
from ctr_rec.schema.table import EmbeddingSettings
from ctr_rec.sharding.plan import ShardingConfig
from ctr_rec.sharding.tables import TableOptimizer
from ctr_rec.train.optimizers import DenseOptimizer
from ctr_rec.train.run import Checkpointing, Run, TrainConfig, Validation

LOG = "logs/movielens_1m_early"
COUNTERS = ("item_like", "user_like")


def _run(name: str, tower: TowerConfig) -> Run:
    return Run(
        name=name,
        data=DataConfig(
            log=LOG, label="liked", batches=Pointwise(impressions=1024), channels={"recent": Channel(last=50)}
        ),
        tower=tower,
        embedding=EmbeddingSettings(dim=32, exclude=COUNTERS),
        sharding=ShardingConfig(optimizer=TableOptimizer(lr=0.05)),
        dense=DenseOptimizer(lr=1e-3, clip=10.0),
        train=TrainConfig(epochs=3),
        validation=Validation(metric="auc"),
        checkpoint=Checkpointing(keep=1),
    )


# Behaviours compressed by DIN to one token a sequence.


def token_mlp() -> Run:
    """MLP over all tokens side by side."""
    return _run("token_mlp", TokenMLPConfig(mlp=MLPSettings(hidden=(256, 128, 64))))


def token_dcn_v2() -> Run:
    """DCN-V2 over all tokens side by side, its crosses of rank 64."""
    return _run("token_dcn_v2", TokenDCNv2Config(rank=64))


def autoint() -> Run:
    """AutoInt among tokens, two layers of two heads."""
    return _run("autoint", AutoIntConfig())


def rankmixer() -> Run:
    """RankMixer, two layers, one token per feature."""
    return _run("rankmixer", RankMixerConfig())


def hiformer() -> Run:
    """HiFormer with every token's own projections, two layers of four heads."""
    return _run("hiformer", HiFormerConfig())
