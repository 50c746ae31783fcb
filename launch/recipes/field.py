"""The field that EST is measured against, on MovieLens-1M, all with the same fields and the same optimizers.

    ctr-rec train launch/recipes/field.py:onetrans --run-dir runs/onetrans --set train.seed=3

Fields every model reads: film (id, genres, year), the rating level of past events, their time and order, the user's
profile, hour and weekday of the request. A user's 50 newest events are `recent`.
"""

from ctr_rec.batch.config import Channel, DataConfig, Pointwise
from ctr_rec.layers.retrieval import RetrievalSettings, Search
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.baselines.full_attention import FullAttentionConfig
from ctr_rec.models.baselines.mtgr import MTGRConfig
from ctr_rec.models.baselines.onetrans import OneTransConfig, Retrieved
from ctr_rec.models.tower import TowerConfig
from ctr_rec.schema.table import EmbeddingSettings
from ctr_rec.sharding.plan import ShardingConfig
from ctr_rec.sharding.tables import TableOptimizer
from ctr_rec.train.optimizers import DenseOptimizer
from ctr_rec.train.run import Checkpointing, Run, TrainConfig, Validation

# Models that attend over sequence tokens: full attention, MTGR, OneTrans.

SEQUENCE_CHANNELS = {"recent": Channel(last=50), "lifelong": Channel(last=1000)}
# What the candidate retrieves is searched for by the likeness of film embeddings: the log has no content.
SEQUENCE_TOKENS = TokenSettings(
    width=64, retrieval=RetrievalSettings(channel="lifelong", most=20, by=Search.ID, feature="film")
)


def _over_sequences(name: str, tower: TowerConfig) -> Run:
    return Run(
        name=name,
        data=DataConfig(
            log="logs/movielens_1m_early",
            label="liked",
            batches=Pointwise(impressions=1024),
            channels=SEQUENCE_CHANNELS,
        ),
        tower=tower,
        embedding=EmbeddingSettings(dim=32, exclude=("item_like", "user_like")),
        sharding=ShardingConfig(optimizer=TableOptimizer(lr=0.05)),
        dense=DenseOptimizer(lr=1e-3, clip=10.0),
        train=TrainConfig(epochs=3),
        validation=Validation(metric="auc"),
        checkpoint=Checkpointing(keep=1),
    )


def full_attention() -> Run:
    """Every token of [N; B] attends to every one, behaviours once for each impression."""
    return _over_sequences("full_attention", FullAttentionConfig(tokens=SEQUENCE_TOKENS))


def mtgr() -> Run:
    """SiLU attention with a norm for each group of tokens; what the candidate retrieves is pooled."""
    return _over_sequences("mtgr", MTGRConfig(tokens=SEQUENCE_TOKENS))


def onetrans() -> Run:
    """Causal over [S; NS] with a pyramid; what the candidate retrieves is pooled."""
    return _over_sequences("onetrans", OneTransConfig(tokens=SEQUENCE_TOKENS))


def onetrans_d() -> Run:
    """OneTrans with DIN over what the candidate retrieves."""
    return _over_sequences("onetrans_d", OneTransConfig(tokens=SEQUENCE_TOKENS, retrieved=Retrieved.DIN))


def onetrans_f() -> Run:
    """OneTrans with every retrieved token in the sequence: 50 and 20 of them."""
    return _over_sequences("onetrans_f", OneTransConfig(tokens=SEQUENCE_TOKENS, retrieved=Retrieved.FULL, span=70))
