"""How far a run has come, as plain data: what a checkpoint keeps besides tensors and random states."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ctr_rec.train.stage import Stage


@dataclass(frozen=True)
class Position:
    """`batch` is the next step of `epoch` within stage number `stage`: the next global batch of its first pass.

    Batches of other passes follow from it. epoch counts over the whole run, so that no two epochs are shuffled alike.
    best: the best watched metric so far; worse: validations since then. first_step: at which training on the present
    log began; stages, epochs, schedule and max_steps count from there. began: step at which the stage began. reached:
    validation has found in this stage that the tower is as good as the second network.
    """

    stage: int = 0
    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float | None = None
    worse: int = 0
    first_step: int = 0
    began: int = 0
    reached: bool = False

    def on_new_log(self) -> Position:
        """The beginning of another log; the validation range is another, so its best so far does not count."""
        return Position(step=self.step, first_step=self.step, began=self.step)

    def entered(self, number: int, stage: Stage, first_epoch: int) -> Position:
        """The beginning of stage `number`; one that goes on keeps its place in the data."""
        place = {} if stage.goes_on else {"epoch": first_epoch, "batch": 0}
        return replace(self, stage=number, began=self.step, reached=False, **place)

    def stepped(self) -> Position:
        return replace(self, batch=self.batch + 1, step=self.step + 1)

    def next_epoch(self) -> Position:
        return replace(self, epoch=self.epoch + 1, batch=0)

    def caught_up(self) -> Position:
        """Validation finds the tower as good as the second network."""
        return replace(self, reached=True)

    def over(self, stage: Stage) -> bool:
        """Whether the stage has met its own end, before that of its epochs."""
        return (stage.until_reached and self.reached) or (
            stage.steps is not None and self.step - self.began >= stage.steps
        )

    def judged(self, metric: str, value: float) -> Position:
        """After a validation of the watched metric. An undefined one is no verdict: patience does not wear out."""
        if not np.isfinite(value):
            return self
        better = self.best is None or (as_good(metric, value, self.best) and value != self.best)
        return replace(self, best=value if better else self.best, worse=0 if better else self.worse + 1)


def as_good(metric: str, value: float, other: float) -> bool:
    """Whether a metric's value is no worse than another: auc and gauc grow, losses fall. False where undefined."""
    return bool(value >= other if metric in ("auc", "gauc") else value <= other)
