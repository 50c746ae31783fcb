"""EST and the models of its table on MovieLens-1M, all with the same fields, channels and search; and GRAB's rivals.

    ctr-rec train launch/recipes/est.py:est --run-dir runs/est --set train.seed=3

Every model reads film (id, genres, year), the rating level of past events, their time and order, the user's profile,
hour and weekday of the request. A user's 50 newest events are `recent`; the candidate retrieves its 50 likest of the
5,000 newest by the films' frozen content vectors, and a histogram of these likenesses (SimTier) is one more token.
The log is prepared with content, see "Content vectors" in the README.
"""

from ctr_rec.batch.config import Batches, Channel, DataConfig, Packed, Pointwise
from ctr_rec.layers.behaviours import BehaviourSettings
from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.layers.retrieval import RetrievalSettings, Search
from ctr_rec.layers.token_inputs import TokenSettings
from ctr_rec.models.baselines.autoint import AutoIntConfig
from ctr_rec.models.baselines.bst import BSTConfig
from ctr_rec.models.baselines.full_attention import FullAttentionConfig
from ctr_rec.models.baselines.hiformer import HiFormerConfig
from ctr_rec.models.baselines.longer import LongerConfig
from ctr_rec.models.baselines.mtgr import MTGRConfig
from ctr_rec.models.baselines.onetrans import OneTransConfig, Retrieved
from ctr_rec.models.baselines.rankmixer import RankMixerConfig
from ctr_rec.models.baselines.sim import SIMConfig
from ctr_rec.models.baselines.token_dcn_v2 import TokenDCNv2Config
from ctr_rec.models.baselines.token_mlp import TokenMLPConfig
from ctr_rec.models.baselines.twin import TWINConfig
from ctr_rec.models.est.packed import PackedESTConfig
from ctr_rec.models.est.tower import ESTConfig
from ctr_rec.models.tower import TowerConfig
from ctr_rec.schema.table import EmbeddingSettings
from ctr_rec.sharding.plan import ShardingConfig
from ctr_rec.sharding.tables import TableOptimizer
from ctr_rec.train.optimizers import DenseOptimizer
from ctr_rec.train.run import Checkpointing, Run, TrainConfig, Validation

LOG = "logs/movielens_1m_early_content"
COUNTERS = ("item_like", "user_like")
RECENT = {"recent": Channel(last=50)}
SINGLY = Pointwise(impressions=1024)
CHANNELS = {**RECENT, "lifelong": Channel(last=5000)}
TOKENS = TokenSettings(
    recent="recent",
    content="content",
    retrieval=RetrievalSettings(channel="lifelong", most=50, feature="content"),
    simtier=True,
)


def _run(
    name: str,
    tower: TowerConfig,
    channels: dict[str, Channel] = CHANNELS,
    exclude: tuple[str, ...] = (),
    batches: Batches = SINGLY,
) -> Run:
    return Run(
        name=name,
        data=DataConfig(log=LOG, label="liked", batches=batches, channels=channels),
        tower=tower,
        embedding=EmbeddingSettings(dim=32, exclude=(*COUNTERS, *exclude)),
        sharding=ShardingConfig(optimizer=TableOptimizer(lr=0.05)),
        dense=DenseOptimizer(lr=1e-3, clip=10.0),
        train=TrainConfig(epochs=3),
        validation=Validation(metric="auc"),
        checkpoint=Checkpointing(keep=1),
    )


def est() -> Run:
    """EST with two layers of width 64: LCA, CSA, retrieval by content and SimTier."""
    return _run("est", ESTConfig(tokens=TOKENS))


def packed_est() -> Run:
    """EST over whole users, ours: all impressions of a user read one pass. No user has 2,400 events."""
    tower = PackedESTConfig(tokens=TOKENS, window=50, lifelong=2400)
    return _run("packed_est", tower, channels={}, batches=Packed(tokens=5000, context=2400))


# Behaviours compressed by DIN to one token a sequence.


def token_mlp() -> Run:
    """MLP over all tokens side by side."""
    return _run("token_mlp", TokenMLPConfig(tokens=TOKENS, mlp=MLPSettings(hidden=(256, 128, 64))))


def token_dcn_v2() -> Run:
    """DCN-V2 over all tokens side by side, its crosses of rank 64."""
    return _run("token_dcn_v2", TokenDCNv2Config(tokens=TOKENS, rank=64))


def autoint() -> Run:
    """AutoInt among tokens, two layers of two heads."""
    return _run("autoint", AutoIntConfig(tokens=TOKENS))


def rankmixer() -> Run:
    """RankMixer, two layers, one token per feature."""
    return _run("rankmixer", RankMixerConfig(tokens=TOKENS))


def hiformer() -> Run:
    """HiFormer with every token's own projections, two layers of four heads."""
    return _run("hiformer", HiFormerConfig(tokens=TOKENS))


# Attention over sequence tokens.


def full_attention() -> Run:
    """Every token of [N; B] attends to every one, behaviours once for each impression."""
    return _run("full_attention", FullAttentionConfig(tokens=TOKENS))


def mtgr() -> Run:
    """SiLU attention with a norm for each group of tokens; what the candidate retrieves is pooled."""
    return _run("mtgr", MTGRConfig(tokens=TOKENS))


def onetrans() -> Run:
    """Causal over [S; NS] with a pyramid; what the candidate retrieves is pooled."""
    return _run("onetrans", OneTransConfig(tokens=TOKENS))


def onetrans_d() -> Run:
    """OneTrans with DIN over what the candidate retrieves."""
    return _run("onetrans_d", OneTransConfig(tokens=TOKENS, retrieved=Retrieved.DIN))


def onetrans_f() -> Run:
    """OneTrans with every retrieved token in the sequence, behind the recent ones."""
    return _run("onetrans_f", OneTransConfig(tokens=TOKENS, retrieved=Retrieved.FULL, span=100))


# GRAB's rivals (arXiv 2602.01865, table 1), which read a long history, and BST; without content, as in their papers.


def sim_hard() -> Run:
    """SIM, its long history searched for films that share a genre with the candidate."""
    search = RetrievalSettings(by=Search.CATEGORY, feature="genres")
    return _run("sim_hard", SIMConfig(tokens=TokenSettings(retrieval=search)), exclude=("content",))


def sim_soft() -> Run:
    """SIM, its long history searched for the films whose embeddings are most like the candidate's."""
    search = RetrievalSettings(by=Search.ID, feature="film")
    return _run("sim_soft", SIMConfig(tokens=TokenSettings(retrieval=search)), exclude=("content",))


def twin() -> Run:
    """TWIN, four heads."""
    return _run("twin", TWINConfig(), exclude=("content",))


def longer() -> Run:
    """LONGER, two layers, four behaviours merged to one token; the newest 32 of these go on."""
    tokens = TokenSettings(recent="long", behaviour=BehaviourSettings(orders=256))
    return _run("longer", LongerConfig(tokens=tokens), {"long": Channel(last=256)}, exclude=("content",))


def bst() -> Run:
    """BST, one block of two heads."""
    return _run("bst", BSTConfig(), RECENT, exclude=("content",))
