"""The trainer: runs a list of stages, validates, saves, stops in order. It names no tower and no strategy."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from ctr_rec.checkpoint.grow import Growth
from ctr_rec.evaluate.predict import predict
from ctr_rec.metrics.mergeable import all_metrics, undefined_reasons
from ctr_rec.train.build import Built
from ctr_rec.train.checkpoints import SECONDS_TO_STOP, TOO_LATE, Checkpoints
from ctr_rec.train.folder import RunFolder
from ctr_rec.train.record import IntervalLog, Record
from ctr_rec.train.run import Run, TrainConfig
from ctr_rec.train.seen import SeenImpressions, forget_seen_after
from ctr_rec.train.stage import Stage
from ctr_rec.train.start import begin_again, restarted
from ctr_rec.train.step import Stepper, resolve_precision
from ctr_rec.train.stop import StopRequest
from ctr_rec.train.strategies import stages


@dataclass(frozen=True)
class Position:
    """How far a run has come: plain data. `batch` is the next global batch of `epoch` within stage number `stage`.

    epoch counts over the whole run, so that no two epochs are shuffled alike. best: the best watched metric so far;
    worse: validations since then. first_step: at which training on the present log began; stages, epochs, schedule and
    max_steps count from there. stage_step: at which the present stage began.
    """

    stage: int = 0
    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float | None = None
    worse: int = 0
    first_step: int = 0
    stage_step: int = 0

    def on_new_log(self) -> Position:
        """The beginning of another log; the validation range is another, so its best so far does not count."""
        return Position(step=self.step, first_step=self.step, stage_step=self.step)


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
        self.reader = built.reader("train", run.train.seed)
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
            stored, growth = self.checkpoints.load_last(self.log, grow)
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

    def _total_steps(self, run: Run) -> int:
        steps = sum(s.epochs for s in stages(run)) * self.reader.num_batches()
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
        done_epochs = 0
        for number, stage in enumerate(self.stages):
            if number >= self.position.stage:
                started = time.perf_counter()
                yield from self._stage(number, stage, done_epochs, record, seen)
                self._told(stage, time.perf_counter() - started, record)
            done_epochs += stage.epochs

    def _told(self, stage: Stage, seconds: float, record: Record) -> None:
        """seconds: of this process; a stage that was resumed took longer."""
        steps = self.position.step - self.position.stage_step
        if steps:
            record.write("stage", self.position.step, {"name": stage.name, "steps": steps, "seconds": seconds})

    def _stage(
        self, number: int, stage: Stage, first_epoch: int, record: Record, seen: SeenImpressions | None
    ) -> Iterator[str]:
        if self.position.stage != number:
            step = self.position.step
            self.position = replace(self.position, stage=number, epoch=first_epoch, batch=0, stage_step=step)
            self._enter(stage, record)
        while self.position.epoch < first_epoch + stage.epochs:
            epoch = self.position.epoch
            for batch in self.reader.batches(epoch, start=self.position.batch):
                if self.position.step >= self.total_steps:
                    return
                begun = self.position.first_step
                factor = self.run.schedule.factor(self.position.step - begun, self.total_steps - begun)
                result = self.stepper.step(batch.to(self.group.device), factor)
                self.position = replace(self.position, batch=self.position.batch + 1, step=self.position.step + 1)
                self.log.add(batch, result)
                if seen is not None:
                    seen.add(self.position.step, batch.impression_id[batch.weight > 0].numpy())
                yield self._after_step(epoch, factor, record, seen)
            self.position = replace(self.position, epoch=epoch + 1, batch=0)

    def _enter(self, stage: Stage, record: Record) -> None:
        """What happens at the beginning of a stage. No checkpoint lies between it and the stage's first step."""
        if stage.restart is not None:
            begun = begin_again(self.built, stage.restart)
            record.say(f"{stage.name} | tables begin again: {', '.join(begun)}")

    def _after_step(self, epoch: int, factor: float, record: Record, seen: SeenImpressions | None) -> str:
        step = self.position.step
        record.advance(step)
        last_of_epoch = self.position.batch == self.reader.num_batches()
        if step % self.run.train.log_every == 0 or last_of_epoch:
            waited, self._waited = self.reader.waited - self._waited, self.reader.waited
            record.train_line(step, epoch, self.run.dense.lr * factor, self.log.line(waited))
        every = self.run.validation.every
        if self._validates and (step == self.total_steps or (last_of_epoch if every is None else step % every == 0)):
            return self._validate(record, seen)
        if self.run.checkpoint.every is not None and step % self.run.checkpoint.every == 0:
            self._save(record, seen)
        return "on"

    def _validate(self, record: Record, seen: SeenImpressions | None) -> str:
        """Scores the validation range, keeps the best checkpoint, and says whether to go on."""
        with self._paused():
            predictions = predict(
                self.built.parallel.model, self.built.reader("valid", 0), self.group, self.built.item_is_new
            )
            metrics = all_metrics(predictions.label, predictions.logit, predictions.user)
            watched = self.run.validation
            better = self._judge(float(metrics[watched.metric]))
            self._metrics = {k: float(v) if np.isfinite(v) else None for k, v in metrics.items()}
            record.write("valid", self.position.step, {k: float(v) for k, v in metrics.items()})
            record.say(
                f"step {self.position.step} validation | auc {metrics['auc']:.4f} gauc {metrics['gauc']:.4f} "
                f"logloss {metrics['logloss']:.4f} ne {metrics['ne']:.4f} calibration {metrics['calibration']:.3f} "
                f"| {self._verdict(better, undefined_reasons(metrics).get(watched.metric))}"
            )
        self._save(record, seen, best=better)
        return "early" if self._enough() else "on"

    def _judge(self, value: float) -> bool:
        """Whether the watched metric is the best so far. An undefined one is no verdict: patience does not wear out."""
        if not np.isfinite(value):
            return False
        sign = 1.0 if self.run.validation.metric in ("auc", "gauc") else -1.0
        best = self.position.best
        better = best is None or sign * value > sign * best
        self.position = replace(
            self.position, best=value if better else best, worse=0 if better else self.position.worse + 1
        )
        return better

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


def seed_everything(seed: int, rank: int) -> None:
    """Dropout and the like differ by rank; initial weights do not (see sharding/)."""
    random.seed(seed * 1_000 + rank)
    np.random.seed((seed * 1_000 + rank) % 2**32)
    torch.manual_seed(seed * 1_000 + rank)
