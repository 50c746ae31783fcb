"""Runs on the synthetic log, whose best reachable AUC is known.

    ctr-rec prepare data/synthetic --raw data/synthetic/default.json --out logs/synthetic
    ctr-rec train launch/recipes/synthetic.py:din --run-dir runs/synthetic_din

The default log plants all effects at once (data/synthetic/README.md). Every tower reads item id, group, content vector,
what the user did before, its times and order, and the time of the request. The `*_long` runs read a log of long
histories, data/synthetic/long.json, prepared as logs/synthetic_long.
"""

from ctr_rec.batch.config import Channel, DataConfig, Packed, Pointwise
from ctr_rec.batch.planted import CLICK, FOLLOW, LIKE, SEARCH, SKIP
from ctr_rec.models.baselines.dcn_v2 import DCNv2Config
from ctr_rec.models.baselines.din import DINConfig
from ctr_rec.models.baselines.hstu import HSTUConfig
from ctr_rec.models.baselines.mlp import MLPConfig
from ctr_rec.models.grab.config import Behaviours
from ctr_rec.models.grab.tower import GRABConfig
from ctr_rec.models.tower import Filling, TowerConfig
from ctr_rec.schema.table import EmbeddingSettings
from ctr_rec.sharding.plan import ShardingConfig
from ctr_rec.sharding.tables import TableOptimizer
from ctr_rec.train.optimizers import DenseOptimizer, Schedule
from ctr_rec.train.run import Checkpointing, Run, TrainConfig, Validation

LOG, LONG = "logs/synthetic", "logs/synthetic_long"
SHORT = Packed(tokens=8192, context=512)


def _run(
    name: str,
    tower: TowerConfig,
    channels: dict[str, Channel],
    log: str = LOG,
    packed: Packed = SHORT,
) -> Run:
    batches = packed if tower.filling is Filling.PACKED else Pointwise(impressions=2048)
    return Run(
        name=name,
        data=DataConfig(log=log, label="clicked", batches=batches, channels=channels),
        tower=tower,
        embedding=EmbeddingSettings(dim=8, init_std=0.1),
        sharding=ShardingConfig(optimizer=TableOptimizer(lr=0.05)),
        dense=DenseOptimizer(lr=4e-3, clip=10.0),
        schedule=Schedule(warmup_steps=50, decay="cosine", end=0.05),
        train=TrainConfig(epochs=4, threads=1 if isinstance(batches, Packed) else None),
        validation=Validation(metric="auc"),
        checkpoint=Checkpointing(keep=1),
    )


def _kinds() -> dict[str, Channel]:
    """A channel for each kind of behaviour."""
    return {
        "shown": Channel(actions=(SKIP, CLICK, LIKE), last=40),
        "searches": Channel(actions=(SEARCH,), last=10),
        "follows": Channel(actions=(FOLLOW,), last=8),
    }


def mlp() -> Run:
    """The mean of each kind of behaviour beside the candidate."""
    return _run("mlp", MLPConfig(), _kinds())


def dcn_v2() -> Run:
    """The MLP's inputs with explicit crosses."""
    return _run("dcn_v2", DCNv2Config(), _kinds())


def din() -> Run:
    """Target attention over each kind of behaviour, with action, age and order."""
    return _run("din", DINConfig(), _kinds())


def hstu() -> Run:
    """Whole users packed, two layers over a window of 256 events."""
    return _run("hstu", HSTUConfig(), {})


def _long(name: str, tower: TowerConfig, channels: dict[str, Channel]) -> Run:
    """On the log whose best predictor needs old events; every tower may look back over 1,024 of them.

    Packed towers have one layer: what is planted is a weighted mean, and a second layer would cost the square of the
    length for every impression that is scored alone.
    """
    return _run(name, tower, channels, LONG, Packed(tokens=16384, context=1024))


def din_long() -> Run:
    """Target attention over what the user followed, clicked and liked among the last thousand events or more."""
    return _long("din_long", DINConfig(orders=1024), {"taken": Channel(actions=(CLICK, LIKE, FOLLOW), last=1024)})


def hstu_long() -> Run:
    """One layer over a window of 1,024 events."""
    return _long("hstu_long", HSTUConfig(layers=1, window=1024), {})


def grab_long() -> Run:
    """GRAB over 1,024 events, a channel for all and one for what the user followed, clicked and liked."""
    channels = {"all": Behaviours(window=1024), "taken": Behaviours(actions=(CLICK, LIKE, FOLLOW), window=1024)}
    return _long("grab_long", GRABConfig(layers=1, span=1024, channels=channels), {})
