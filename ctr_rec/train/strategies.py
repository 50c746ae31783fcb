"""Strategies: functions from a run to its list of stages. The trainer runs the list and knows none of them.

Each raises ConfigError for a run that it cannot train.
"""

from __future__ import annotations

from collections.abc import Callable

from ctr_rec.errors import ConfigError
from ctr_rec.models.ranker import BESIDE
from ctr_rec.train.run import Run
from ctr_rec.train.settings import DualLoss, SequenceThenSparse, SparseReset
from ctr_rec.train.stage import Feed, Loss, Part, Pass, Restart, Stage


def joint(run: Run) -> list[Stage]:
    """Tables and dense weights train together on the same batches."""
    return [Stage(name="joint", epochs=run.train.epochs)]


def multi_epoch_sparse_reset(run: Run) -> list[Stage]:
    """Several epochs without over-fitted embeddings: large tables begin again at each one, all else goes on.

    MEDA (arXiv 2305.19531) draws the tables anew at random; EST (section 5.5) goes back to the same warm start in every
    epoch. What is served is the last epoch's tables. Optimizer state of a table begins again with it: an accumulator
    of gradients that no longer stand behind the values would only shorten the steps [ours].
    """
    reset = run.train.sparse_reset
    fresh = reset.to == "fresh"
    later = [Restart(min_rows=reset.min_rows, fresh=e if fresh else None) for e in range(1, run.train.epochs)]
    return [Stage(name=f"epoch {e}", epochs=1, restart=restart) for e, restart in enumerate([None, *later])]


def sequence_then_sparse(run: Run) -> list[Stage]:
    """GRAB's STS (arXiv 2602.01865, section 3.4, Algorithm 1): a packed user's correlated updates stay off the tables.

    Stage I trains the tower on the run's own batches, tables frozen; Stage II trains the tables, tower frozen. See
    `SequenceThenSparse` for what the paper leaves open.
    """
    sts = run.train.sequence_then_sparse
    _check_sts(run, sts)
    packed = sts.reading == "section_5_3"
    feed = Feed.OWN if packed else Feed.ALONE if sts.head == "sequence" else Feed.SINGLE
    loss = Loss.SEQUENCE if sts.head == "sequence" else Loss.BESIDE
    trains = {Part.TABLES, Part.BESIDE} if sts.head == "trained" else {Part.TABLES}
    by_step = sts.alternate == "step"
    first = Pass(Feed.OWN, Loss.SEQUENCE, frozenset({Part.SEQUENCE}))
    second = Pass(feed, loss, frozenset(trains), sts.period if by_step else 1)
    if by_step:
        return [Stage("sequence then sparse", run.train.epochs, passes=(first, second))]
    found: list[Stage] = []
    for epoch in range(run.train.epochs):
        found.append(Stage(f"sequence, epoch {epoch}", 1, passes=(first,)))
        if (epoch + 1) % sts.period == 0:
            found.append(Stage(f"sparse, epoch {epoch}", 1, passes=(second,)))
    return found


def _check_sts(run: Run, sts: SequenceThenSparse) -> None:
    where = "train.sequence_then_sparse"
    if sts.head == "sequence" and run.beside is not None:
        raise ConfigError(f"{where}.head=sequence trains tables through the tower, so beside has no effect; remove it")
    if sts.head != "sequence" and run.beside is None:
        raise ConfigError(
            f"{where}.head={sts.head} trains tables through a second network, and the run has none; set beside, "
            "DINConfig() say, or head=sequence"
        )
    if sts.head == "frozen" and not _starts_warm(run):
        raise ConfigError(
            f"{where}.head=frozen trains tables through a network that nobody has trained; start it warm "
            "(warm_start.dense=beside), or set head=trained"
        )
    if sts.history is not None and (sts.head != "sequence" or sts.reading != "algorithm"):
        raise ConfigError(
            f"{where}.history={sts.history} has no effect with head={sts.head}, reading={sts.reading}: only "
            "head=sequence with reading=algorithm gives an impression its own copy of its history; remove it"
        )
    if sts.reading == "section_5_3" and sts.alternate == "step" and sts.period > 1:
        raise ConfigError(
            f"{where}.period={sts.period} with reading=section_5_3: Stage II takes the packed batch of its step, so "
            f"{sts.period - 1} of {sts.period} would never reach the tables; set period=1 or alternate=epoch"
        )
    if sts.alternate == "epoch" and sts.period > run.train.epochs:
        raise ConfigError(
            f"{where}.period={sts.period} epochs, but train.epochs={run.train.epochs}: no table would ever be trained; "
            "lower period or raise epochs"
        )


def dual_loss_warm_start(run: Run) -> list[Stage]:
    """The original network and its loss beside the tower until the tower has caught up, then less, then gone.

    From the slides of GRAB ("stacked training"); see `DualLoss`. All stages share the run's epochs.
    """
    if run.beside is None or not _starts_warm(run):
        raise ConfigError(
            "train.strategy=dual_loss_warm_start needs the original network: set beside to its tower, and warm_start "
            "to where it comes from, with warm_start.dense=beside for its dense weights"
        )
    dual = run.train.dual_loss
    loss = Loss.SUM if dual.form == "loss" else Loss.STACKED
    both = (Pass(loss=loss, trains=frozenset(Part)),)
    epochs = run.train.epochs
    return [
        Stage("with the original", epochs, passes=both, until_reached=True),
        Stage("the original fades", epochs, passes=both, goes_on=True, steps=dual.fade_steps, fades=True),
        Stage("without the original", epochs, goes_on=True, drops_beside=True),
    ]


def _starts_warm(run: Run) -> bool:
    """Whether the second network's weights come from another model."""
    dense = run.warm_start.dense if run.warm_start is not None else "none"
    return dense == "beside" or (isinstance(dense, dict) and any(name.startswith(BESIDE) for name in dense))


STRATEGIES: dict[str, Callable[[Run], list[Stage]]] = {
    "joint": joint,
    "multi_epoch_sparse_reset": multi_epoch_sparse_reset,
    "sequence_then_sparse": sequence_then_sparse,
    "dual_loss_warm_start": dual_loss_warm_start,
}


def stages(run: Run) -> list[Stage]:
    """The stages of a run. Raises ConfigError for settings of another strategy, which would have no effect."""
    train = run.train
    if train.sparse_reset != SparseReset() and train.strategy != "multi_epoch_sparse_reset":
        raise ConfigError(
            f"train.sparse_reset is set, but train.strategy={train.strategy} resets nothing; set train.strategy to "
            "multi_epoch_sparse_reset or remove it"
        )
    others = {
        "sequence_then_sparse": (train.sequence_then_sparse, SequenceThenSparse(), "sequence_then_sparse"),
        "dual_loss": (train.dual_loss, DualLoss(), "dual_loss_warm_start"),
    }
    for name, (settings, default, strategy) in others.items():
        if settings != default and train.strategy != strategy:
            raise ConfigError(
                f"train.{name} is set, but train.strategy={train.strategy} does not read it; set train.strategy to "
                f"{strategy} or remove it"
            )
    found = STRATEGIES[train.strategy](run)
    if run.beside is not None and not any(stage.reads_beside for stage in found):
        raise ConfigError(
            f"beside is set, but train.strategy={train.strategy} trains no second network; remove it, or set "
            "train.strategy to sequence_then_sparse or dual_loss_warm_start"
        )
    return found
