"""Mechanisms: for each planted effect of the synthetic log, a model that can see it against one that cannot.

Both arms are trained alike and differ in one switch; the best AUC is that of the true click probabilities. All other
effects are off, so what the arm without the mechanism finds is what leaks through its other inputs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctr_rec.batch.config import Channel, DataConfig, Packed, Pointwise
from ctr_rec.batch.planted import CLICK, LIKE, SEARCH, SKIP, Effects, SyntheticConfig
from ctr_rec.bench.record import Emit
from ctr_rec.evaluate.compare import Comparison, compare
from ctr_rec.evaluate.main import score
from ctr_rec.evaluate.predictions import Predictions
from ctr_rec.layers.context import ContextSettings
from ctr_rec.layers.mlp import MLPSettings
from ctr_rec.layers.target_attention import TargetAttentionSettings
from ctr_rec.metrics import auc
from ctr_rec.models.baselines.din import DINConfig
from ctr_rec.models.baselines.hstu import HSTUConfig
from ctr_rec.models.baselines.mlp import MLPConfig
from ctr_rec.models.tower import Filling, TowerConfig
from ctr_rec.prepare.synthetic import LABEL, best_metrics, write_log
from ctr_rec.schema.table import EmbeddingSettings
from ctr_rec.sharding.group import Group, open_group
from ctr_rec.sharding.plan import ShardingConfig
from ctr_rec.sharding.tables import TableOptimizer
from ctr_rec.train.folder import RunFolder
from ctr_rec.train.main import fit
from ctr_rec.train.optimizers import DenseOptimizer, Schedule
from ctr_rec.train.run import Checkpointing, Run, TrainConfig, Validation

REACHED = ">= 0.9"
TOLD_APART = ">= 0.02"
# The number of visible events alone has up to 0.09 of the lead of an effect of content (data/synthetic/README.md).
BLIND = "<= 0.15"
NO_TIME = ContextSettings(use_time=False)
SHOWN = (SKIP, CLICK, LIKE)
WORLD = SyntheticConfig(users=2_000, items=300, requests_per_user=16, requests_sigma=0.4, spread=0.0)
SHORT_LIVES = WORLD.model_copy(update={"requests_per_user": 10})
MANY_ITEMS = WORLD.model_copy(update={"items": 20_000})
SMALL_MLP = MLPSettings(hidden=(32,), dropout=0.0)
NO_IDS = ("item", "content")


@dataclass(frozen=True)
class Arm:
    """tower, channels, features left out, the dense learning rate and impressions of a batch: what a run is made of
    beside the log. Packed towers have batches of tokens.
    """

    tower: TowerConfig
    channels: dict[str, Channel]
    exclude: tuple[str, ...] = NO_IDS
    lr: float = 1e-2
    impressions: int = 1_024

    def run(self, name: str, log: Path, epochs: int, seed: int) -> Run:
        """The whole run on a prepared log."""
        packed = self.tower.filling is Filling.PACKED
        batches = Packed(tokens=2_048, context=256) if packed else Pointwise(impressions=self.impressions)
        return Run(
            name=name,
            data=DataConfig(log=str(log), label=LABEL, batches=batches, channels=self.channels),
            tower=self.tower,
            embedding=EmbeddingSettings(dim=8, init_std=0.3, exclude=self.exclude),
            sharding=ShardingConfig(optimizer=TableOptimizer(lr=0.05)),
            dense=DenseOptimizer(lr=self.lr, clip=10.0),
            schedule=Schedule(warmup_steps=20, decay="cosine", end=0.05),
            train=TrainConfig(seed=seed, epochs=epochs, threads=1, log_every=1_000),
            validation=Validation(metric="auc"),
            checkpoint=Checkpointing(keep=1),
        )


@dataclass(frozen=True)
class Mechanism:
    """effect: what is planted, and how strongly. model, switch: in words. on, off: with the mechanism and without.

    placebo: a world with the same clicks in which the mechanism has nothing to read; `on` is trained there too.
    apart: off is a model without the mechanism; else it is another one that must see the effect as well.
    """

    effect: str
    strength: float
    model: str
    switch: str
    on: Arm
    off: Arm
    world: SyntheticConfig = WORLD
    epochs: int = 4
    placebo: SyntheticConfig | None = None
    apart: bool = True

    @property
    def settings(self) -> SyntheticConfig:
        """Of the log in which nothing else is planted."""
        return self._planted(self.world)

    @property
    def placebo_settings(self) -> SyntheticConfig | None:
        return None if self.placebo is None else self._planted(self.placebo)

    def _planted(self, world: SyntheticConfig) -> SyntheticConfig:
        return world.model_copy(update={"effects": Effects(**{self.effect: self.strength})})


def _din(
    use_action: bool = True, use_age: bool = False, use_order: bool = False, context: ContextSettings = NO_TIME
) -> DINConfig:
    return DINConfig(
        attention=TargetAttentionSettings(hidden=(32, 16)),
        mlp=SMALL_MLP,
        context=context,
        use_action=use_action,
        use_age=use_age,
        use_order=use_order,
        orders=32,
    )


def _hstu(use_action: bool = True, use_age: bool = False, use_order: bool = False, window: int = 64) -> HSTUConfig:
    return HSTUConfig(
        width=32,
        layers=1,
        heads=2,
        window=window,
        dropout=0.0,
        mlp=SMALL_MLP,
        context=NO_TIME,
        use_action=use_action,
        use_age=use_age,
        use_order=use_order,
    )


def _mlp(context: ContextSettings = NO_TIME) -> MLPConfig:
    return MLPConfig(mlp=SMALL_MLP, context=context)


def mechanisms() -> list[Mechanism]:
    """Every planted effect, with the models that have a mechanism for it."""
    recent = {"recent": Channel(last=20)}
    apart = {"searches": Channel(actions=(SEARCH,), last=10), "shown": Channel(actions=SHOWN, last=10)}
    no_history = Arm(_mlp(), {})
    plain = Arm(_din(use_action=True, use_order=True), recent)
    ordered = Arm(_hstu(use_order=True), {})
    return [
        Mechanism(
            "long_term",
            4.0,
            "DIN",
            "history of 80 events, not 10",
            Arm(_din(), {"all": Channel(last=80)}),
            Arm(_din(), {"recent": Channel(last=10)}),
            SHORT_LIVES,
        ),
        Mechanism(
            "long_term",
            4.0,
            "HSTU",
            "window of 80 events, not 10",
            Arm(_hstu(window=80), {}),
            Arm(_hstu(window=10), {}),
            SHORT_LIVES,
        ),
        Mechanism("drift", 5.0, "DIN", "a history", plain, no_history),
        Mechanism("time_gap", 3.0, "DIN", "use_age", Arm(_din(use_order=True, use_age=True), recent), plain),
        Mechanism(
            "time_gap",
            3.0,
            "HSTU",
            "use_age",
            Arm(_hstu(use_order=True, use_age=True), {}),
            ordered,
            epochs=10,
        ),
        Mechanism("action_kind", 6.0, "DIN", "use_action", plain, Arm(_din(False, use_order=True), recent), epochs=9),
        Mechanism("action_kind", 6.0, "HSTU", "use_action", ordered, Arm(_hstu(False, use_order=True), {}), epochs=16),
        Mechanism("position", 3.0, "DIN", "use_order", plain, Arm(_din(), recent)),
        Mechanism("position", 3.0, "HSTU", "use_order", ordered, Arm(_hstu(), {})),
        Mechanism(
            "content", 3.0, "DIN", "content vectors", Arm(_din(use_order=True), recent, ("item",)), plain, MANY_ITEMS
        ),
        Mechanism(
            "channel",
            5.0,
            "DIN",
            "a channel for searches",
            Arm(_din(False, use_order=True), apart),
            Arm(_din(False, use_order=True), recent),
        ),
        Mechanism("time_of_day", 1.0, "MLP", "use_time", Arm(_mlp(ContextSettings()), {}), no_history, epochs=10),
        Mechanism("popularity", 1.0, "MLP", "item id", Arm(_mlp(), {}, ("content",)), no_history),
    ]


def run(emit: Emit, log: Path | None = None) -> None:
    """Emit, per mechanism, the test AUC of both arms beside the best, and their difference. `log` is not used."""
    del log
    run_all(emit, mechanisms(), "mechanisms")


def run_all(emit: Emit, chosen: Sequence[Mechanism], bench: str) -> None:
    """Measures them in a temporary folder, one after another. bench: whose records they are."""
    with tempfile.TemporaryDirectory() as folder, open_group("cpu") as group:
        for found in measure(chosen, Path(folder), group):
            report(emit, found, bench)


@dataclass(frozen=True)
class Found:
    """Test AUC of the truth (best) and of both arms; comparison: on against off, paired, clustered by user.

    placebo: AUC of the arm with the mechanism where it has nothing to read; None without such a world.
    """

    mechanism: Mechanism
    best: float
    comparison: Comparison
    placebo: float | None = None

    @property
    def on(self) -> float:
        return self.comparison.difference("auc").b

    @property
    def off(self) -> float:
        return self.comparison.difference("auc").a

    @property
    def reached(self) -> float:
        """Of what the truth wins over a coin, the share that the model with the mechanism wins."""
        return self.share(self.on)

    def share(self, value: float) -> float:
        return (value - 0.5) / (self.best - 0.5)


def measure(chosen: Sequence[Mechanism], folder: Path, group: Group, seed: int = 1) -> Iterator[Found]:
    """Makes the log of each mechanism once, trains both arms on it and scores the test range once each."""
    logs: dict[str, Path] = {}

    def log_of(settings: SyntheticConfig) -> Path:
        key = settings.model_dump_json()
        if key not in logs:
            number = len(logs)
            logs[key] = folder / f"log-{number}"
            write_log(settings, folder / f"raw-{number}", logs[key])
        return logs[key]

    def trained(arm: Arm, run: str, log: Path, epochs: int) -> Predictions:
        fit(arm.run(run, log, epochs, seed), RunFolder(folder / run), group, resume=False)
        return score(folder / run, "test", "best", None, group).predictions

    for number, mechanism in enumerate(chosen):
        name, epochs = f"{number}-{mechanism.effect}", mechanism.epochs
        log, placebo = log_of(mechanism.settings), mechanism.placebo_settings
        on = trained(mechanism.on, f"{name}-on", log, epochs)
        off = trained(mechanism.off, f"{name}-off", log, epochs)
        blind = None
        if placebo is not None:
            rows = trained(mechanism.on, f"{name}-placebo", log_of(placebo), epochs)
            blind = auc(rows.label, rows.logit)
        yield Found(mechanism, best_metrics(log)["auc"], compare([off], [on], replicates=400), blind)


def report(emit: Emit, found: Found, bench: str) -> None:
    """A bench's records of one mechanism."""
    mechanism, difference = found.mechanism, found.comparison.difference("auc")
    case = f"{mechanism.effect}: {mechanism.model}, {mechanism.switch}"
    emit(bench, case, "test AUC with", found.on, "", baseline=found.best)
    emit(bench, case, "test AUC without", found.off, "", baseline=found.best)
    emit(bench, case, "share of the best AUC's lead over 0.5, with", found.reached, "", goal=REACHED)
    if found.placebo is not None:
        blind = abs(found.share(found.placebo))
        emit(bench, case, "share of that lead, with, where there is nothing to read", blind, "", goal=BLIND)
    goal = TOLD_APART if mechanism.apart else None
    value, low, high = difference.difference, difference.low, difference.high
    emit(bench, case, "with - without", value, "", goal=goal, min=low, max=high)
