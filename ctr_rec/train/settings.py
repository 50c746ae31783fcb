"""Settings of strategies that have any. They belong to one strategy each; set for another one they are refused."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ctr_rec.config import Config


class SparseReset(Config):
    """Of the strategy `multi_epoch_sparse_reset`: which tables begin again at each epoch, and as what.

    min_rows: smaller tables (gender, weekday) hardly over-fit and go on. to: "start", what the run began with (its warm
    start, or the initial values of its seed); "fresh", new random initial values at each epoch.
    """

    min_rows: int = Field(default=10_000, ge=1)
    to: Literal["start", "fresh"] = "start"


class SequenceThenSparse(Config):
    """Of the strategy `sequence_then_sparse` (GRAB, arXiv 2602.01865, section 3.4): what Stage II is.

    head: f_sp, the sparse predictor through which tables are trained. "trained", "frozen": the second network
    (`Run.beside`), which Stage II trains or, started warm, leaves alone; "sequence": the tower itself, frozen. The
    paper's Stage II trains the tables only and says neither what f_sp is nor who trains it [ours].
    reading: the paper describes the stages twice, and not alike. "algorithm" (Algorithm 1): tables learn from
    independent impressions. "section_5_3" (its ablation says the other way round: with STS tables are updated through
    packed sequences, without it from the same data as independent exposures): Stage II takes packed batches too. All
    else is the same, so that the readings differ in one thing: which impressions share an update of the tables [ours].
    alternate: "step", a batch of Stage II after every `period` steps of Stage I; "epoch", a whole pass of it after
    every `period` epochs of Stage I. By step, a batch of independent impressions has `period` times as many as one of
    Stage I has on average, so each impression comes once an epoch in either stage [the period and both rules: ours].
    history: of head=sequence by independent impressions, each with its own copy of its history: newest visible events
    in it; None: as many as the tower reaches. Such a batch has at most 65,536 tokens, so there may be several a step.
    """

    head: Literal["trained", "frozen", "sequence"] = "trained"
    reading: Literal["algorithm", "section_5_3"] = "algorithm"
    alternate: Literal["step", "epoch"] = "step"
    period: int = Field(default=1, ge=1)
    history: int | None = Field(default=None, ge=1)


class DualLoss(Config):
    """Of the strategy `dual_loss_warm_start`: how the original network takes part, and how it leaves.

    form: "loss", L = L_seq + w L_o; "stacked", one loss of the summed logit z_seq + w z_o. w is 1 until a validation
    finds the tower as good as the original in `validation.metric`, falls to 0 over `fade_steps` steps, and then the
    original is dropped. The slides say "stacked training" and "gradually" and nothing more [forms and rule are ours].
    """

    form: Literal["loss", "stacked"] = "loss"
    fade_steps: int = Field(default=100, ge=1)
