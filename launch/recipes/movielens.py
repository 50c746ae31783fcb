"""Runs on MovieLens. Each function returns a whole run; `--set` changes single fields.

    ctr-rec prepare data/movielens_1m --raw FOLDER --out logs/movielens_1m
    ctr-rec train launch/recipes/movielens.py:din --run-dir runs/din --set train.seed=3

Fields every model reads: film (id, genres, year), the rating level of past events, their time and order, the user's
profile, hour and weekday of the request. Running counters of film and user are in the log; `*_counters` recipes read
them.
"""

from ctr_rec.batch.config import Channel, DataConfig, Packed, Pointwise
from ctr_rec.checkpoint.warm_start.config import TableWarmStart, WarmStart
from ctr_rec.layers.context import ContextSettings
from ctr_rec.models.baselines.dcn_v2 import DCNv2Config
from ctr_rec.models.baselines.din import DINConfig
from ctr_rec.models.baselines.hstu import HSTUConfig
from ctr_rec.models.baselines.mlp import MLPConfig
from ctr_rec.models.grab.config import Behaviours
from ctr_rec.models.grab.tower import GRABConfig
from ctr_rec.models.tower import TowerConfig
from ctr_rec.schema.table import EmbeddingSettings, TableSettings
from ctr_rec.sharding.plan import ShardingConfig
from ctr_rec.sharding.tables import TableOptimizer
from ctr_rec.train.optimizers import DenseOptimizer
from ctr_rec.train.run import Checkpointing, Run, TrainConfig, Validation
from ctr_rec.train.settings import DualLoss

LOG = "logs/movielens_1m"
COUNTERS = ("item_like", "user_like")
# Action codes are rating levels: 0 to 4 stand for one to five stars.
DISLIKED, LIKED = (0, 1, 2), (3, 4)
# Attention over blocks is many operations of some 20 microseconds: on two threads GRAB trained 7,300 impressions/s, on
# one 12,200. More cores are for more ranks.
PACKED_THREADS = 1


def _pointwise(name: str, tower: TowerConfig, channels: dict[str, Channel]) -> Run:
    return Run(
        name=name,
        data=DataConfig(log=LOG, label="liked", batches=Pointwise(impressions=4096), channels=channels),
        tower=tower,
        embedding=EmbeddingSettings(dim=16, exclude=COUNTERS),
        sharding=ShardingConfig(optimizer=TableOptimizer(lr=0.05)),
        dense=DenseOptimizer(lr=1e-3, clip=10.0),
        train=TrainConfig(epochs=4),
        validation=Validation(metric="auc", patience=1),
        checkpoint=Checkpointing(keep=1),
    )


def _recent() -> dict[str, Channel]:
    return {"recent": Channel(last=100)}


def _by_taste() -> dict[str, Channel]:
    return {"liked": Channel(actions=LIKED, last=50), "disliked": Channel(actions=DISLIKED, last=50)}


def mlp() -> Run:
    """Mean of the last 100 events beside the candidate."""
    return _pointwise("mlp", MLPConfig(), _recent())


def dcn_v2() -> Run:
    """The MLP's inputs with explicit crosses."""
    return _pointwise("dcn_v2", DCNv2Config(), _recent())


def din() -> Run:
    """Target attention over the last 50 liked and the last 50 disliked films, with rating level, age and order."""
    return _pointwise("din", DINConfig(), _by_taste())


def din_fuxictr() -> Run:
    """What FuxiCTR's DIN reads: film ids of two histories and the profile; no times, no order, no genres."""
    context = ContextSettings(use_request=False, use_counters=False, use_time=False)
    tower = DINConfig(context=context, use_action=False, use_age=False, use_order=False)
    run = _pointwise("din_fuxictr", tower, _by_taste())
    return run.model_copy(update={"embedding": EmbeddingSettings(dim=16, exclude=(*COUNTERS, "genres", "year"))})


def hstu() -> Run:
    """Whole users packed: every impression of a user in one pass, two layers over a window of 256 events."""
    return Run(
        name="hstu",
        data=DataConfig(log=LOG, label="liked", batches=Packed(tokens=16384, context=512)),
        tower=HSTUConfig(),
        embedding=EmbeddingSettings(dim=32, exclude=COUNTERS),
        sharding=ShardingConfig(optimizer=TableOptimizer(lr=0.05)),
        dense=DenseOptimizer(lr=1e-3, clip=10.0),
        train=TrainConfig(epochs=4, threads=PACKED_THREADS),
        validation=Validation(metric="auc", patience=1),
        checkpoint=Checkpointing(keep=1),
    )


EARLY = "logs/movielens_1m_early"
FIRST_HALF, SECOND_HALF = "logs/movielens_1m_first_half", "logs/movielens_1m_second_half"
OLD_MODEL = "runs/card_warm_start/old-1"


def din_old() -> Run:
    """The team's old model: DIN on the first half of the training range, two passes, its film table on one rank."""
    run = din()
    sharding = {"item": TableSettings(sharding="table_wise")}
    return run.model_copy(
        update={
            "name": "din_old",
            "data": run.data.model_copy(update={"log": FIRST_HALF}),
            "embedding": run.embedding.model_copy(update={"tables": sharding}),
            "train": run.train.model_copy(update={"epochs": 2}),
            "validation": Validation(metric="auc"),
        }
    )


def _on_second_half(run: Run, warm_start: WarmStart | None) -> Run:
    return run.model_copy(
        update={
            "data": run.data.model_copy(update={"log": SECOND_HALF}),
            "warm_start": warm_start,
            "train": run.train.model_copy(update={"epochs": 2}),
            "validation": Validation(metric="auc"),
        }
    )


def hstu_warm() -> Run:
    """HSTU of width 32 on the second half, its tables from the old DIN of width 16, row by row under the same id."""
    tables = {name: TableWarmStart(dim="project") for name in ("item", "genre", "year", "gender", "age", "occupation")}
    return _on_second_half(hstu(), WarmStart(source=OLD_MODEL, checkpoint="last", tables=tables))


def hstu_cold() -> Run:
    """The same without the old model."""
    return _on_second_half(hstu(), None)


def din_on() -> Run:
    """The old model trained on: tables with their optimizer state, and all other weights."""
    return _on_second_half(din(), WarmStart(source=OLD_MODEL, checkpoint="last", dense="matching"))


def _grab(name: str, channels: dict[str, Behaviours]) -> Run:
    """Small batches and a larger dense rate than HSTU's: chosen on validation of the early cut, as all of `tuned`."""
    tower = GRABConfig(layers=1, channels=channels, shared_tokenizer=True, start_alike=True)
    wide = EmbeddingSettings(dim=64, exclude=COUNTERS)
    return _tuned(hstu(), name, Packed(tokens=4096, context=512), lr=4e-3, tower=tower, embedding=wide)


def _tuned(run: Run, name: str, batches: Packed | Pointwise, lr: float, **changed: object) -> Run:
    """Five epochs without early stopping: validation stands still for some and then leaps; its best one is kept."""
    data = run.data.model_copy(update={"batches": batches})
    dense = run.dense.model_copy(update={"lr": lr})
    settings = {"name": name, "data": data, "dense": dense, "validation": Validation(metric="auc"), **changed}
    return run.model_copy(update={**settings, "train": run.train.model_copy(update={"epochs": 5})})


def hstu_tuned() -> Run:
    """`hstu` as it was best on validation of the early cut: smaller batches, more epochs."""
    return _tuned(hstu(), "hstu_tuned", Packed(tokens=4096, context=512), lr=4e-3)


def din_tuned() -> Run:
    """`din` as it was best on validation of the early cut: smaller batches, more epochs."""
    return _tuned(din(), "din_tuned", Pointwise(impressions=2048), lr=1e-3)


def grab() -> Run:
    """GRAB with three channels, all events, liked and disliked ones; one layer over a span of 256 events."""
    channels = {
        "all": Behaviours(),
        "liked": Behaviours(actions=LIKED, window=128),
        "disliked": Behaviours(actions=DISLIKED, window=128),
    }
    return _grab("grab", channels)


def grab_one() -> Run:
    """GRAB with a single channel, an ablation."""
    return _grab("grab_one", {"all": Behaviours()})


def grab_sts() -> Run:
    """One-channel GRAB by Sequence-Then-Sparse on the early cut: its tables learn beside it, through a DIN."""
    run = grab_one()
    return run.model_copy(
        update={
            "name": "grab_sts",
            "data": run.data.model_copy(update={"log": EARLY, "channels": _by_taste()}),
            "beside": DINConfig(),
            "train": TrainConfig(epochs=1, strategy="sequence_then_sparse", threads=PACKED_THREADS),
            "validation": Validation(metric="auc"),
        }
    )


def grab_dual() -> Run:
    """One-channel GRAB on the second half with the old DIN beside it: its tables, its weights and its loss.

    Tables keep the old model's width of 16, which its dense weights are made for.
    """
    run = _on_second_half(grab_one(), WarmStart(source=OLD_MODEL, checkpoint="last", dense="beside"))
    return run.model_copy(
        update={
            "name": "grab_dual",
            "data": run.data.model_copy(update={"channels": _by_taste()}),
            "beside": DINConfig(),
            "embedding": din().embedding,
            "train": TrainConfig(
                epochs=2, strategy="dual_loss_warm_start", dual_loss=DualLoss(fade_steps=50), threads=PACKED_THREADS
            ),
            "validation": Validation(metric="auc", every=46),
        }
    )


def _with_counters(run: Run) -> Run:
    """The same run, reading the running counters of film and user besides."""
    return run.model_copy(
        update={
            "name": f"{run.name}_counters",
            "embedding": run.embedding.model_copy(update={"exclude": ()}),
        }
    )


def mlp_counters() -> Run:
    """`mlp` with running counters."""
    return _with_counters(mlp())


def dcn_v2_counters() -> Run:
    """`dcn_v2` with running counters."""
    return _with_counters(dcn_v2())


def din_counters() -> Run:
    """`din` with running counters."""
    return _with_counters(din())


def hstu_counters() -> Run:
    """`hstu` with running counters."""
    return _with_counters(hstu())


def _small(run: Run) -> Run:
    """The same model on MovieLens-100K: a tenth of the data, so smaller batches."""
    packed = isinstance(run.data.batches, Packed)
    batches = Packed(tokens=4096, context=512) if packed else Pointwise(impressions=1024)
    data = run.data.model_copy(update={"log": "logs/movielens_100k", "batches": batches})
    train = run.train.model_copy(update={"epochs": 4, "log_every": 20})
    return run.model_copy(update={"name": f"{run.name}_100k", "data": data, "train": train})


def mlp_100k() -> Run:
    """`mlp` on MovieLens-100K."""
    return _small(mlp())


def dcn_v2_100k() -> Run:
    """`dcn_v2` on MovieLens-100K."""
    return _small(dcn_v2())


def din_100k() -> Run:
    """`din` on MovieLens-100K."""
    return _small(din())


def hstu_100k() -> Run:
    """`hstu` on MovieLens-100K."""
    return _small(hstu())
