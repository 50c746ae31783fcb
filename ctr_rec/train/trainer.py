"""The trainer: runs a list of stages, validates, saves, stops in order. It names no tower and no strategy."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass

import numpy as np
import torch

from ctr_rec.batch.batch import Batch
from ctr_rec.checkpoint.grow import Growth
from ctr_rec.checkpoint.manifest import Manifest
from ctr_rec.errors import ConfigError
from ctr_rec.evaluate.predict import predict
from ctr_rec.metrics.mergeable import MetricDict, all_metrics, undefined_reasons
from ctr_rec.models.ranker import Branch
from ctr_rec.train.build import Built
from ctr_rec.train.checkpoints import SECONDS_TO_STOP, TOO_LATE, Checkpoints
from ctr_rec.train.feeds import Feeds
from ctr_rec.train.folder import RunFolder
from ctr_rec.train.position import Position, as_good
from ctr_rec.train.record import IntervalLog, Record
from ctr_rec.train.run import Run, TrainConfig
from ctr_rec.train.seen import SeenImpressions, forget_seen_after
from ctr_rec.train.stage import Pass, Stage
from ctr_rec.train.start import begin_again, restarted
from ctr_rec.train.step import Stepper, resolve_precision
from ctr_rec.train.stop import StopRequest
from ctr_rec.train.strategies import stages


@dataclass(frozen=True)
class Outcome:
    """How training ended: "finished", "early" (validation no longer improved) or "stopped" (asked to)."""

    end: str
    position: Position


class Trainer:
    """One rank's view of a run. `fit` goes from `position` to the end, or to where it is asked to stop."""

    def __init__(self, run: Run, folder: RunFolder, built: Built) -> None:
        self.run = run
        self.folder = folder
        self.built = built
        self.group = built.group
        self.stages = stages(run)
        for stage in self.stages:
            if stage.restart is not None:
                restarted(built.spec.tables, stage.restart)  # a setting without effect is refused before the first step
        dtype = resolve_precision(run.train.precision, self.group.device)
        self.stepper = Stepper(built.parallel, run.dense, self.group.size, dtype)
        self.feeds = Feeds(built)
        self.position = Position()
        self.log = IntervalLog(self.group, run.train.window)
        self.checkpoints = Checkpoints(folder, built, self.stepper.dense_optimizer)
        self._waited = 0.0
        self._metrics: dict[str, float | None] = {}
        self.total_steps = self._total_steps(run)
        self._validates = built.manifest.split.valid_end is not None
        self._warning: str | None = None

    def start(self, goes_on: bool, grow: bool = False) -> Growth | None:
        """From the last checkpoint where there is one, else from the beginning; forgets what was logged after it.

        grow: the model may have more than the checkpoint, which is returned; on a new log training begins with its
        first batch.

        Raises CheckpointError when the checkpoint is damaged or does not belong to this run, or none can be written.
        """
        self.checkpoints.check_place()
        growth: Growth | None = None
        if goes_on:
            if grow and any(stage.goes_on for stage in self.stages):
                raise ConfigError(
                    f"--grow with train.strategy={self.run.train.strategy}: the second network may be gone already; "
                    "start a new run, warm from this one"
                )
            stored, growth = self.checkpoints.load_last(self.log, self._shape_of, grow)
            self.position = Position(**stored.state)
            if growth is not None and growth.new_log:
                self.position = self.position.on_new_log()
            else:
                self._warning = self._changed_total(TrainConfig.model_validate(stored.config["train"]))
            self.total_steps += self.position.first_step
        if self.group.is_main:
            self.folder.forget_after(self.position.step)
            forget_seen_after(self.folder.seen, self.position.step)
        self.group.barrier()
        return growth

    def fit(self) -> Outcome:
        """Trains. Every rank returns the same outcome; the last checkpoint is written before it returns."""
        step = self.position.step
        with StopRequest() as stop, Record(self.folder.path, self.group.is_main, self.total_steps, step) as record:
            if self._warning is not None:
                record.say(self._warning)
            seen = self._seen()
            end = "finished"
            try:
                for end in self._steps(record, seen):
                    if end == "early":
                        break
                    asked, failed = self.group.any_of(stop.asked, self.checkpoints.failed)
                    if failed:
                        self.checkpoints.wait()  # raises on every rank what failed in the background
                    if asked:
                        end = "stopped"
                        break
                else:
                    end = "finished"
                self._save(record)
                self.checkpoints.wait()
            except Exception:
                self.checkpoints.abandon()
                raise
            finally:
                if seen is not None:
                    seen.close()
            self._say_end(record, end)
        return Outcome(end, self.position)

    def _shape_of(self, stored: Manifest) -> None:
        """Gives the model the shape that it had in a checkpoint."""
        if self.stages[stored.stage].drops_beside:
            self._drop_beside()

    def _drop_beside(self) -> None:
        self.built.drop_beside()
        self.stepper.forget_beside()

    def _total_steps(self, run: Run) -> int:
        steps = sum(s.epochs * self.feeds.num_steps(s) for s in stages(run) if not s.goes_on)
        return steps if run.train.max_steps is None else min(steps, run.train.max_steps)

    def _changed_total(self, before: TrainConfig) -> str | None:
        """What to say where the run now has another length than its checkpoint and learning rates depend on it."""
        total = self._total_steps(self.run.model_copy(update={"train": before}))
        decay, step = self.run.schedule.decay, self.position.step
        if decay == "constant" or total == self.total_steps:
            return None
        # A schedule counts from where the run last grew.
        since = step - self.position.first_step
        factors = [self.run.schedule.factor(since, steps) for steps in (total, self.total_steps)]
        return (
            f"warning: the {decay} decay spans the whole run, which had {total} steps and now has {self.total_steps}: "
            f"at step {step} the learning rates jump from {factors[0]:.3g} to {factors[1]:.3g} times their start, and "
            "the run is not the one that would have had this length from the start"
        )

    def _steps(self, record: Record, seen: SeenImpressions | None) -> Iterator[str]:
        """Yields after each step: "on", or "early" when validation says that it is enough."""
        if self._enough():
            # Killed between that verdict and its end, a resumed run must not train on.
            yield "early"
            return
        first_epoch, last_epoch = 0, 0
        for number, stage in enumerate(self.stages):
            if not stage.goes_on:
                first_epoch, last_epoch = last_epoch, last_epoch + stage.epochs
            if number >= self.position.stage and self._may_begin(number, stage):
                started = time.perf_counter()
                yield from self._stage(number, stage, first_epoch, record, seen)
                self._told(stage, time.perf_counter() - started, record)

    def _may_begin(self, number: int, stage: Stage) -> bool:
        """A stage that goes on begins where the one before has met its end, and not where the epochs are over."""
        at = self.position
        return not stage.goes_on or number == at.stage or (number == at.stage + 1 and at.over(self.stages[at.stage]))

    def _told(self, stage: Stage, seconds: float, record: Record) -> None:
        """seconds: of this process; a resumed stage took longer. A run killed at its very end ends it again."""
        steps = self.position.step - self.position.began
        told = [(line["step"], line["name"]) for line in self.folder.stage_lines()]
        if steps and (self.position.step, stage.name) not in told:
            record.write("stage", self.position.step, {"name": stage.name, "steps": steps, "seconds": seconds})

    def _stage(
        self, number: int, stage: Stage, first_epoch: int, record: Record, seen: SeenImpressions | None
    ) -> Iterator[str]:
        if self.position.stage != number:
            self.position = self.position.entered(number, stage, first_epoch)
            self._enter(stage, record)
        while self.position.epoch < first_epoch + stage.epochs and not self.position.over(stage):
            epoch = self.position.epoch
            with closing(self.feeds.epoch(stage, epoch, self.position.batch)) as steps:
                for passes in steps:
                    if self.position.step >= self.total_steps:
                        return
                    yield self._step(stage, passes, record, seen)
                    if self.position.over(stage):
                        return
            self.position = self.position.next_epoch()

    def _enter(self, stage: Stage, record: Record) -> None:
        """What happens at the beginning of a stage. No checkpoint lies between it and the stage's first step."""
        if stage.restart is not None:
            begun = begin_again(self.built, stage.restart)
            record.say(f"{stage.name} | tables begin again: {', '.join(begun)}")
        if stage.drops_beside:
            self._drop_beside()
        if stage.goes_on:
            record.say(f"step {self.position.step} | {stage.name}")

    def _step(
        self, stage: Stage, passes: list[tuple[Pass, Batch]], record: Record, seen: SeenImpressions | None
    ) -> str:
        begun, epoch = self.position.first_step, self.position.epoch
        factor = self.run.schedule.factor(self.position.step - begun, self.total_steps - begun)
        weight = stage.weight(self.position.step - self.position.began)
        self.position = self.position.stepped()
        for number, (one, batch) in enumerate(passes):
            result = self.stepper.step(batch.to(self.group.device), factor, one, weight)
            if number == 0:
                self.log.add(batch, result)
            else:
                self.log.add_beside(batch, result.loss_sum)
            if seen is not None:
                seen.add(self.position.step, batch.impression_id[batch.weight > 0].numpy())
        return self._after_step(stage, epoch, factor, record, seen)

    def _after_step(self, stage: Stage, epoch: int, factor: float, record: Record, seen: SeenImpressions | None) -> str:
        step = self.position.step
        record.advance(step)
        last_of_epoch = self.position.batch == self.feeds.num_steps(stage)
        if step % self.run.train.log_every == 0 or last_of_epoch:
            waited, self._waited = self.feeds.waited - self._waited, self.feeds.waited
            record.train_line(step, epoch, self.run.dense.lr * factor, self.log.line(waited))
        every = self.run.validation.every
        if self._validates and (step == self.total_steps or (last_of_epoch if every is None else step % every == 0)):
            return self._validate(stage, record, seen)
        if self.run.checkpoint.every is not None and step % self.run.checkpoint.every == 0:
            self._save(record, seen)
        return "on"

    def _validate(self, stage: Stage, record: Record, seen: SeenImpressions | None) -> str:
        """Scores the validation range, keeps the best checkpoint, and says whether to go on."""
        with self._paused():
            metrics = self._scored(Branch.SEQUENCE)
            metric = self.run.validation.metric
            before, self.position = self.position, self.position.judged(metric, float(metrics[metric]))
            better = self.position.worse == 0 and self.position.best is not None and self.position.best != before.best
            lines = {k: float(v) for k, v in metrics.items()}
            self._metrics = {k: v if np.isfinite(v) else None for k, v in lines.items()}
            said = f"{_words(metrics)} | {self._verdict(better, undefined_reasons(metrics).get(metric))}"
            if stage.reads_beside:
                beside = self._scored(Branch.BESIDE)
                lines |= {f"beside_{k}": float(v) for k, v in beside.items()}
                said += f" | beside it {_words(beside)}"
                if stage.until_reached and as_good(metric, float(metrics[metric]), float(beside[metric])):
                    self.position = self.position.caught_up()
            record.write("valid", self.position.step, lines)
            record.say(f"step {self.position.step} validation | {said}")
        self._save(record, seen, best=better)
        return "early" if self._enough() else "on"

    def _scored(self, branch: Branch) -> MetricDict:
        reader = self.built.reader("valid", 0, branch)
        found = predict(self.built.parallel.model, reader, self.group, self.built.item_is_new, branch=branch)
        return all_metrics(found.label, found.logit, found.user)

    def _verdict(self, better: bool, undefined: str | None) -> str:
        metric = self.run.validation.metric
        if undefined is not None:
            return f"{metric} is undefined ({undefined}): no checkpoint is the best; watch logloss, or move the split"
        best = self.position.best
        if best is None:
            return f"{metric} is infinite: no checkpoint is the best; lower the learning rates"
        return f"{'best' if better else 'not better than'} {metric} {best:.4f}"

    def _enough(self) -> bool:
        patience = self.run.validation.patience
        return patience is not None and self.position.worse >= patience

    def _save(self, record: Record, seen: SeenImpressions | None = None, best: bool = False) -> None:
        with self._paused():
            if seen is not None:
                seen.flush()
            started = time.perf_counter()
            said = self.checkpoints.save(
                asdict(self.position), self.log, self._metrics, self.position.best if best else None
            )
            seconds = time.perf_counter() - started
        if seconds > SECONDS_TO_STOP:
            said.append(f"saving held training up for {seconds:.0f} s: {TOO_LATE}")
        for sentence in said:
            record.say(sentence)

    def _seen(self) -> SeenImpressions | None:
        if not self.run.train.record_impressions:
            return None
        return SeenImpressions(self.folder.seen, self.group.index)

    def _say_end(self, record: Record, end: str) -> None:
        why = {"early": "validation no longer improves", "stopped": "asked to stop; --resume goes on from here"}
        record.say(f"{end} at step {self.position.step}" + (f": {why[end]}" if end in why else ""))

    @contextmanager
    def _paused(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.log.pause(time.perf_counter() - started)


def _words(metrics: MetricDict) -> str:
    return (
        f"auc {metrics['auc']:.4f} gauc {metrics['gauc']:.4f} logloss {metrics['logloss']:.4f} ne {metrics['ne']:.4f} "
        f"calibration {metrics['calibration']:.3f}"
    )


def seed_everything(seed: int, rank: int) -> None:
    """Dropout and the like differ by rank; initial weights do not (see sharding/)."""
    random.seed(seed * 1_000 + rank)
    np.random.seed((seed * 1_000 + rank) % 2**32)
    torch.manual_seed(seed * 1_000 + rank)
