"""EST's rivals on MovieLens-1M's early cut: what they read is the same for all of them.

    ctr-rec train launch/recipes/field.py:rankmixer --run-dir runs/rankmixer --set train.seed=3

Fields every model reads: film (id, genres, year), the rating level of the user's 50 newest events, their order and age,
the user's profile, hour and weekday of the request.
"""

from ctr_rec.batch.config import Channel, DataConfig, Pointwise
from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.layers.retrieval import RetrievalSettings, Search
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.baselines.autoint import AutoIntConfig
from ctr_rec.models.baselines.full_attention import FullAttentionConfig
from ctr_rec.models.baselines.hiformer import HiFormerConfig
from ctr_rec.models.baselines.mtgr import MTGRConfig
from ctr_rec.models.baselines.onetrans import OneTransConfig, Retrieved
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


# Attention over sequence tokens. What the candidate retrieves from a longer history is searched for by the
# likeness of film embeddings: the log has no content.

OVER_SEQUENCES = TokenSettings(
    retrieval=RetrievalSettings(channel="lifelong", most=20, by=Search.ID, feature="film"),
)


def _over_sequences(name: str, tower: TowerConfig) -> Run:
    run = _run(name, tower)
    channels = {**run.data.channels, "lifelong": Channel(last=1000)}
    return run.model_copy(update={"data": run.data.model_copy(update={"channels": channels})})


def full_attention() -> Run:
    """Every token of [N; B] attends to every one, behaviours once for each impression."""
    return _over_sequences("full_attention", FullAttentionConfig(tokens=OVER_SEQUENCES))


def mtgr() -> Run:
    """SiLU attention with a norm for each group of tokens; what the candidate retrieves is pooled."""
    return _over_sequences("mtgr", MTGRConfig(tokens=OVER_SEQUENCES))


def onetrans() -> Run:
    """Causal over [S; NS] with a pyramid; what the candidate retrieves is pooled."""
    return _over_sequences("onetrans", OneTransConfig(tokens=OVER_SEQUENCES))


def onetrans_d() -> Run:
    """OneTrans with DIN over what the candidate retrieves."""
    return _over_sequences("onetrans_d", OneTransConfig(tokens=OVER_SEQUENCES, retrieved=Retrieved.DIN))


def onetrans_f() -> Run:
    """OneTrans with every retrieved token in the sequence, 20 behind the 50 recent ones."""
    return _over_sequences("onetrans_f", OneTransConfig(tokens=OVER_SEQUENCES, retrieved=Retrieved.FULL, span=70))
