"""EST's rivals on MovieLens-1M's early cut: what they read is the same for all of them.

    ctr-rec train launch/recipes/field.py:rankmixer --run-dir runs/rankmixer --set train.seed=3

Fields every model reads: film (id, genres, year), the rating level of the user's 50 newest events, their order and age,
the user's profile, hour and weekday of the request. SIM and TWIN search the 5,000 newest for 50 more; LONGER reads the
256 newest.
"""

from ctr_rec.batch.config import Channel, DataConfig, Pointwise
from ctr_rec.layers.behaviours import BehaviourSettings
from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.layers.retrieval import RetrievalSettings, Search
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.baselines.autoint import AutoIntConfig
from ctr_rec.models.baselines.bst import BSTConfig
from ctr_rec.models.baselines.hiformer import HiFormerConfig
from ctr_rec.models.baselines.longer import LongerConfig
from ctr_rec.models.baselines.rankmixer import RankMixerConfig
from ctr_rec.models.baselines.sim import SIMConfig
from ctr_rec.models.baselines.token_dcn_v2 import TokenDCNv2Config
from ctr_rec.models.baselines.token_mlp import TokenMLPConfig
from ctr_rec.models.baselines.twin import TWINConfig
from ctr_rec.models.tower import TowerConfig
from ctr_rec.schema.table import EmbeddingSettings
from ctr_rec.sharding.plan import ShardingConfig
from ctr_rec.sharding.tables import TableOptimizer
from ctr_rec.train.optimizers import DenseOptimizer
from ctr_rec.train.run import Checkpointing, Run, TrainConfig, Validation

LOG = "logs/movielens_1m_early"
COUNTERS = ("item_like", "user_like")
RECENT = {"recent": Channel(last=50)}
LIFELONG = RECENT | {"lifelong": Channel(last=5000)}


def _run(name: str, tower: TowerConfig, channels: dict[str, Channel] = RECENT) -> Run:
    return Run(
        name=name,
        data=DataConfig(log=LOG, label="liked", batches=Pointwise(impressions=1024), channels=channels),
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


# GRAB's rivals (arXiv 2602.01865, table 1), which read a long history; and BST.


def sim_hard() -> Run:
    """SIM, its long history searched for films that share a genre with the candidate."""
    search = RetrievalSettings(by=Search.CATEGORY, feature="genres")
    return _run("sim_hard", SIMConfig(tokens=TokenSettings(retrieval=search)), LIFELONG)


def sim_soft() -> Run:
    """SIM, its long history searched for the films whose embeddings are most like the candidate's."""
    search = RetrievalSettings(by=Search.ID, feature="film")
    return _run("sim_soft", SIMConfig(tokens=TokenSettings(retrieval=search)), LIFELONG)


def twin() -> Run:
    """TWIN, four heads."""
    return _run("twin", TWINConfig(), LIFELONG)


def longer() -> Run:
    """LONGER, two layers, four behaviours merged to one token; the newest 32 of these go on."""
    tokens = TokenSettings(recent="long", behaviour=BehaviourSettings(orders=256))
    return _run("longer", LongerConfig(tokens=tokens), {"long": Channel(last=256)})


def bst() -> Run:
    """BST, one block of two heads."""
    return _run("bst", BSTConfig())
