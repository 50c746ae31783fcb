"""EST and the models of its table on MovieLens-1M, all with the same fields, channels and search.

    ctr-rec train launch/recipes/est.py:est --run-dir runs/est --set train.seed=3

Fields every model reads: film (id, genres, year) and its frozen content vector, the rating level of past events, their
time and order, the user's profile, hour and weekday of the request. A user's 50 newest events are `recent`; the
candidate retrieves its 50 likest of the 5,000 newest.
"""

from ctr_rec.batch.config import Channel, DataConfig, Pointwise
from ctr_rec.layers.retrieval import RetrievalSettings
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.est.tower import ESTConfig
from ctr_rec.models.tower import TowerConfig
from ctr_rec.schema.table import EmbeddingSettings
from ctr_rec.sharding.plan import ShardingConfig
from ctr_rec.sharding.tables import TableOptimizer
from ctr_rec.train.optimizers import DenseOptimizer
from ctr_rec.train.run import Checkpointing, Run, TrainConfig, Validation

LOG = "logs/movielens_1m_early_content"
COUNTERS = ("item_like", "user_like")
CHANNELS = {"recent": Channel(last=50), "lifelong": Channel(last=5000)}
TOKENS = TokenSettings(
    width=64,
    recent="recent",
    content="content",
    retrieval=RetrievalSettings(channel="lifelong", most=50, feature="content"),
    simtier=True,
)


def _run(name: str, tower: TowerConfig) -> Run:
    return Run(
        name=name,
        data=DataConfig(log=LOG, label="liked", batches=Pointwise(impressions=1024), channels=CHANNELS),
        tower=tower,
        embedding=EmbeddingSettings(dim=32, exclude=COUNTERS),
        sharding=ShardingConfig(optimizer=TableOptimizer(lr=0.05)),
        dense=DenseOptimizer(lr=1e-3, clip=10.0),
        train=TrainConfig(epochs=3),
        validation=Validation(metric="auc"),
        checkpoint=Checkpointing(keep=1),
    )


def est() -> Run:
    """EST with two layers of width 64: LCA, CSA, retrieval by content and SimTier."""
    return _run("est", ESTConfig(tokens=TOKENS))
