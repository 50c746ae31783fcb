"""Sequence-Then-Sparse on MovieLens-1M's early cut: which impressions share an update of the tables, and through what.

    ctr-rec prepare data/movielens_1m --raw FOLDER --out logs/movielens_1m_early --split early
    python -m launch.cards.sts --card launch/records/NAME
    python -m launch.cards.sts --part epochs --card launch/records/OTHER      several epochs, with and without resets

One GRAB for all arms: one channel, two layers that look 25 events back, so that 50 events of history are all that an
impression can reach and a batch of impressions alone gives it exactly what a packed one does. As many impressions a
step in every arm, one epoch. The learning rate of the tables is chosen per arm, of three values each, by validation
AUC of seed 1 after its epoch; then three seeds. Test is scored once, for the chosen ones alone, and so is the sparse
predictor beside the model ("GRAB_sparse"). Stopped anywhere, the same command goes on.

The log has no user id among its features (gender, age and occupation are its profile), so the arm "joint with user id"
is not here: it would take another log.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from launch.cards.curves import curve_of, draw
from launch.cards.jobs import Trained, card_option, config_of, environment_of, new_folder, run_all
from launch.cards.summary import Row, markdown, plot, read_row

ROOT = Path("runs/card_sts")
RECIPES = "launch/recipes/movielens.py"
LOG = "logs/movielens_1m_early"
SEEDS = (1, 2, 3)
RATES = ("0.02", "0.05", "0.1")
# Around what did best in a look at 40 steps; a mean gradient is smaller than a sum.
SGD_RATES = {"sum": ("0.1", "0.3", "1"), "mean": ("1", "3", "10")}
SPAN, IMPRESSIONS = 25, 1780
SHARED = {
    "data.log": LOG,
    "tower.layers": "2",
    "tower.channels.all.window": str(SPAN),
    "tower.span": str(SPAN),
    "data.batches.context": str(2 * SPAN),
    "data.batches.tokens": "4096",
    "train.epochs": "1",
    "validation.patience": "null",
}
ALONE = {"data.batches": json.dumps({"filling": "alone", "impressions": IMPRESSIONS, "history": 2 * SPAN})}
SGD = {"sharding.optimizer.kind": "sgd"}
STS = "train.sequence_then_sparse"
NO_SECOND = {"data.channels": "{}", "beside": "null"}
OLD = ROOT / "din"
WARM = {"warm_start": json.dumps({"source": str(OLD), "checkpoint": "last", "dense": "none"})}
WARM_BESIDE = {"warm_start": json.dumps({"source": str(OLD), "checkpoint": "last", "dense": "beside"})}
BY_LEVEL = {f"level{a + 1}": {"actions": [a], "last": 2 * SPAN} for a in range(5)}
AGG = {
    "data.channels": json.dumps(BY_LEVEL),
    "beside": json.dumps({"kind": "ctr_rec.models.baselines.mlp:MLPConfig", "use_counts": True}),
}


@dataclass(frozen=True)
class Arm:
    """A recipe with the arm's own settings. beside: whether it trains a sparse predictor of its own."""

    name: str
    recipe: str
    settings: Mapping[str, str] = field(default_factory=dict)
    beside: bool = False

    @property
    def rates(self) -> Sequence[str]:
        if self.settings.get("sharding.optimizer.kind") != "sgd":
            return RATES
        return SGD_RATES[self.settings.get("sharding.optimizer.gradient", "sum")]

    def job(self, rate: str, seed: int, chosen: bool, more: Mapping[str, str] | None = None) -> Trained:
        slug = "".join(c if c.isalnum() else "_" for c in self.name)
        own = {"sharding.optimizer.lr": rate, "train.seed": str(seed)}
        settings = {**SHARED, **self.settings, **own, **(more or {})}
        folder = ROOT / (f"{slug}-{rate}-{seed}" if more is None else f"epochs-{slug}-{seed}")
        scored = ("valid", "test") if chosen else ()
        return Trained(folder, f"{RECIPES}:{self.recipe}", settings, scored, self.beside and chosen)


JOINT = Arm("joint, packed", "grab_one")
ALGORITHM = Arm("STS, algorithm 1", "grab_sts", {}, beside=True)
ARMS = (
    JOINT,
    Arm("joint, shuffled singly", "grab_one", ALONE),
    ALGORITHM,
    Arm("STS, section 5.3", "grab_sts", {f"{STS}.reading": "section_5_3"}, beside=True),
    Arm("STS, f_sp a fresh MLP on Agg", "grab_sts", AGG, beside=True),
    Arm("STS, through the frozen tower", "grab_sts", {**NO_SECOND, f"{STS}.head": "sequence"}),
    Arm("joint, packed, tables of a DIN", "grab_one", WARM),
    Arm("STS, f_sp that DIN, trained on", "grab_sts", WARM_BESIDE, beside=True),
    Arm("STS, f_sp that DIN, frozen", "grab_sts", {**WARM_BESIDE, f"{STS}.head": "frozen"}, beside=True),
    Arm("joint, mean gradient of a row", "grab_one", {"sharding.optimizer.gradient": "mean"}),
    Arm("joint, SGD", "grab_one", SGD),
    Arm("joint, mean gradient of a row, SGD", "grab_one", {**SGD, "sharding.optimizer.gradient": "mean"}),
    Arm("STS, SGD", "grab_sts", SGD, beside=True),
)
EPOCHS = 5
RESET = {"train.strategy": "multi_epoch_sparse_reset", "train.sparse_reset.min_rows": "1000"}
LONG: Mapping[str, tuple[Arm, Mapping[str, str]]] = {
    "joint": (JOINT, {}),
    "joint, tables begin again": (JOINT, RESET),
    "STS by step": (ALGORITHM, {}),
    "STS by epoch": (ALGORITHM, {f"{STS}.alternate": "epoch"}),
}


def din() -> Trained:
    """A DIN of GRAB's table width on the same impressions, once: an "original network" to start from."""
    settings = {"data.log": LOG, "embedding.dim": "32", "train.epochs": "1", "train.seed": "101"}
    return Trained(OLD, f"{RECIPES}:din", settings, scored=())


def best_rate(arm: Arm) -> str:
    """Of the trials with seed 1, by validation AUC at the end."""
    found = {rate: curve_of(arm.job(rate, SEEDS[0], False).folder, "auc", 1.0).value[-1] for rate in arm.rates}
    return max(found, key=lambda rate: found[rate])


def rows(arms: Sequence[Arm], chosen: Mapping[str, str]) -> list[Row]:
    """The model of every arm, and the predictor beside it where there is one, paired by seed with the joint arm."""
    reference = [JOINT.job(chosen[JOINT.name], seed, True).folder for seed in SEEDS]
    found = []
    for arm in arms:
        runs = [arm.job(chosen[arm.name], seed, True).folder for seed in SEEDS]
        found.append(read_row("early", arm.name, runs, None if arm is JOINT else reference))
        if arm.beside:
            found.append(read_row("early", f"f_sp of {arm.name}", [run / "beside" for run in runs], reference))
    return found


def one_epoch(arms: Sequence[Arm], card: Path) -> None:
    """Tunes each arm's rate, trains the seeds, and writes tables, trials and a plot."""
    run_all([din()])
    run_all([arm.job(rate, SEEDS[0], False) for arm in arms for rate in arm.rates])
    chosen = {arm.name: best_rate(arm) for arm in arms}
    run_all([arm.job(chosen[arm.name], seed, True) for arm in arms for seed in SEEDS])
    found = rows(arms, chosen)
    new_folder(card)
    plot(found, card / "test.svg")
    (card / "tables.md").write_text(markdown(found, JOINT.name))
    trials = {
        arm.name: {r: curve_of(arm.job(r, SEEDS[0], False).folder, "auc", 1.0).value[-1] for r in arm.rates}
        for arm in arms
    }
    _write(card, [arm.job(chosen[arm.name], 1, True).folder for arm in arms], {
        "rates": chosen, "trials": trials, "rows": [row.plain() for row in found]
    })  # fmt: skip


def several_epochs(card: Path) -> None:
    """Validation AUC after each epoch, at the rates that the trials of one epoch choose."""
    short = (JOINT, ALGORITHM)
    run_all([arm.job(rate, SEEDS[0], False) for arm in short for rate in arm.rates])
    chosen = {arm.name: best_rate(arm) for arm in short}
    jobs = {
        name: [
            Arm(name, arm.recipe, arm.settings).job(chosen[arm.name], s, False, {**more, "train.epochs": str(EPOCHS)})
            for s in SEEDS
        ]
        for name, (arm, more) in LONG.items()
    }
    run_all([job for seeds in jobs.values() for job in seeds])
    found = {name: [curve_of(job.folder, "auc", EPOCHS) for job in seeds] for name, seeds in jobs.items()}
    new_folder(card)
    draw(found, card / "validation_auc.svg", "epoch", "validation AUC")
    curves = {name: [c.plain() for c in seeds] for name, seeds in found.items()}
    _write(card, [seeds[0].folder for seeds in jobs.values()], {"rates": chosen, "curves": curves})


def _write(card: Path, folders: Sequence[Path], plain: dict[str, object]) -> None:
    environment = environment_of(folders[0])
    configs = {folder.name: config_of(folder) for folder in folders}
    everything = {"environment": environment, "configs": configs, **plain}
    (card / "results.json").write_text(json.dumps(everything, indent=1) + "\n")
    print(f"tables, figures and plot: {card}", flush=True)


@click.command()
@click.option("--part", type=click.Choice(["one_epoch", "epochs"]), default="one_epoch")
@click.option("--arm", "names", type=click.Choice([arm.name for arm in ARMS]), multiple=True, help="Besides the joint.")
@card_option
def main(part: str, names: tuple[str, ...], card: Path) -> None:
    """Run what is not done yet and write the card."""
    if part == "epochs":
        several_epochs(card)
    else:
        one_epoch([arm for arm in ARMS if not names or arm is JOINT or arm.name in names], card)


if __name__ == "__main__":
    main()
