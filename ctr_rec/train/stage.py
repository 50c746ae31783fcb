"""A stage: a stretch of training with a list of passes for each of its steps. Data, not code in the loop."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ctr_rec.models.ranker import Branch


@dataclass(frozen=True)
class Restart:
    """Tables that begin again, values and optimizer state: those of at least `min_rows` rows.

    fresh: None brings back what the run began with; a number draws new initial values, others for each number.
    """

    min_rows: int
    fresh: int | None = None


class Part(str, Enum):
    """What of a model a pass trains: tables, the tower with its head, the second network with its head."""

    TABLES = "tables"
    SEQUENCE = "sequence"
    BESIDE = "beside"


class Feed(str, Enum):
    """Whence a pass has its batches.

    OWN: `data.batches` of the run. SINGLE: independent impressions for the second network, shuffled one by one. ALONE:
    independent impressions for the tower, each with its own copy of its history.
    """

    OWN = "own"
    SINGLE = "single"
    ALONE = "alone"


class Loss(str, Enum):
    """SEQUENCE, BESIDE: of one branch's logit. SUM: L_seq + w L_o. STACKED: one loss of the logit z_seq + w z_o.

    w: `Stage.weight`.
    """

    SEQUENCE = "sequence"
    BESIDE = "beside"
    SUM = "sum"
    STACKED = "stacked"

    @property
    def branch(self) -> Branch:
        return {"sequence": Branch.SEQUENCE, "beside": Branch.BESIDE}.get(self.value, Branch.BOTH)


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass and its update. What it does not train stays to the bit, optimizer state too.

    period: of independent impressions, how many steps on the run's own batches share one batch of them.
    """

    feed: Feed = Feed.OWN
    loss: Loss = Loss.SEQUENCE
    trains: frozenset[Part] = frozenset({Part.TABLES, Part.SEQUENCE})
    period: int = 1


@dataclass(frozen=True)
class Stage:
    """epochs: passes over the training range in this stage; the reader's shuffle counts epochs over the whole run.

    restart: tables that begin again on entry. Never of a first stage, whose tables have just begun.
    passes: of each step, in order. The first one's batches are the stage's steps; batches of another feed are spread
    evenly over them, so that every feed gives each impression once an epoch.
    goes_on: shares the epochs of the stage before it and goes on where that one ended, in the middle of an epoch too.
    until_reached: ends when validation finds the tower as good as the second network. steps: ends after so many.
    fades: the second network's weight in the loss falls over `steps`, else it is 1.
    drops_beside: the second network is removed on entry.
    """

    name: str
    epochs: int
    restart: Restart | None = None
    passes: tuple[Pass, ...] = (Pass(),)
    goes_on: bool = False
    until_reached: bool = False
    steps: int | None = None
    fades: bool = False
    drops_beside: bool = False

    @property
    def reads_beside(self) -> bool:
        """Whether the second network takes part."""
        return any(one.loss.branch is not Branch.SEQUENCE for one in self.passes)

    def weight(self, done: int) -> float:
        """Of the second network in the loss after `done` steps of the stage; between 1 and 0 where it fades."""
        if not self.fades:
            return 1.0
        assert self.steps is not None, "a stage that fades has a number of steps"
        return max(0.0, (self.steps - done) / (self.steps + 1))
