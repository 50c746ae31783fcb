"""The checkpoints of a run in training: what goes in besides tensors, and what comes back on resume."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ctr_rec.checkpoint.background import Background, snapshot, snapshot_bytes
from ctr_rec.checkpoint.grow import GrowPlanner, Growth, check_growth
from ctr_rec.checkpoint.history import (
    best_record,
    checkpoint_folder,
    clean,
    committed,
    find,
    latest,
    mark_best,
    root,
)
from ctr_rec.checkpoint.manifest import MANIFEST, Manifest, check_compatible, read_manifest, table_sizes
from ctr_rec.checkpoint.random_state import random_state, set_random_state
from ctr_rec.checkpoint.state import training_state
from ctr_rec.checkpoint.store import Loaded, load, save
from ctr_rec.checkpoint.told import told
from ctr_rec.errors import CheckpointError
from ctr_rec.files import AnyPath, write_durably
from ctr_rec.sharding.agreement import on_main
from ctr_rec.sharding.group import Group, group_beside
from ctr_rec.sharding.plan import GIB, memory_left
from ctr_rec.train.build import Built
from ctr_rec.train.folder import RunFolder
from ctr_rec.train.record import IntervalLog

# Seconds that a save waits for the one before it without a word.
WORTH_SAYING = 0.05
# Launchers kill a job about 30 s after SIGTERM.
SECONDS_TO_STOP = 25
TOO_LATE = (
    "launchers kill a job about 30 s after SIGTERM, so a stop may lose the steps since the last checkpoint; set "
    "checkpoint.every"
)


class Checkpoints:
    """Saves and restores one run. Every method but the properties is a collective.

    With `checkpoint.asynchronous` a save returns once the live tensors are copied, and a thread does the rest through
    a process group of its own: data, checksums, manifest, then the mark of the best and the cleaning. One save is under
    way at a time, so nothing that cleans ever meets one.
    """

    def __init__(self, folder: RunFolder, built: Built, dense_optimizer: torch.optim.Optimizer) -> None:
        self.folder = folder
        self.built = built
        self.dense_optimizer = dense_optimizer
        self._background = Background()
        self._beside = group_beside(built.group) if built.run.checkpoint.asynchronous else None
        self._copy: dict[str, Any] | None = None
        self._warned = False

    @property
    def failed(self) -> bool:
        """Whether a save in the background has failed, as far as this rank knows: let all ranks agree, then `wait`."""
        return self._background.failed

    def check_place(self) -> None:
        """Raises CheckpointError on all ranks when nothing can be written where checkpoints are to lie."""
        checkpoints = root(self.folder.path)
        on_main(self.built.group, told(f"cannot write to {checkpoints}", lambda: _try_writing(checkpoints)))

    def wait(self) -> float:
        """Seconds until the save under way was whole; 0.0 where there is none.

        Raises CheckpointError on all ranks when it failed.
        """
        return self._background.wait()

    def abandon(self) -> None:
        """Lets the save under way come to its end, whatever that is: for a run that ends with another error."""
        with contextlib.suppress(CheckpointError):
            self._background.wait()

    def save(
        self, position: dict[str, Any], log: IntervalLog, metrics: dict[str, float | None], best: float | None
    ) -> list[str]:
        """Keeps the present state under its step. Returns sentences for the log, none where all went as it should.

        metrics: of the latest validation, kept beside it. best: the watched metric, where it is the best so far.

        A step that is saved already is not written again.

        Raises:
            CheckpointError: on all ranks, when this save failed, or the one before it in the background.
        """
        said = self._wait_for_the_last()
        state, group = self._state(), self.built.group
        step = int(position["step"])
        path = checkpoint_folder(self.folder.path, step)
        exists = group.any(group.is_main and (path / MANIFEST).is_file())
        manifest, own = self._manifest(position, metrics), self._own(log)

        def write(state: dict[str, Any], group: Group) -> None:
            if not exists:
                with _plain_words(path):
                    save(path, state, manifest, own, group)
            on_main(group, told(f"cannot clean {path.parent}", lambda: self._mark_and_clean(step, best)))

        if self._beside is None or exists or not self._fits(state, said):
            write(state, group)
            return said
        beside = self._beside
        self._copy = copied = snapshot(state, self._copy)
        self._background.start(f"the save of step {step}", lambda: write(copied, beside))
        return said

    def _wait_for_the_last(self) -> list[str]:
        if not self._background.busy:
            return []
        what, waited, took = self._background.what, self.wait(), self._background.seconds
        said = []
        if waited >= WORTH_SAYING:
            said.append(f"waited {waited:.2f} s for {what}, which took {took:.1f} s in the background")
        if took > SECONDS_TO_STOP:
            said.append(f"{what} took {took:.0f} s in the background: {TOO_LATE}")
        return said

    def _mark_and_clean(self, step: int, best: float | None) -> None:
        if best is not None:
            mark_best(self.folder.path, step, self.built.run.validation.metric, best)
        clean(self.folder.path, self.built.run.checkpoint.keep)

    def _fits(self, state: dict[str, Any], said: list[str]) -> bool:
        """Whether every rank has the memory for a copy; asked before the first one, which then stays."""
        if self._copy is not None:
            return True
        group = self.built.group
        need, room = snapshot_bytes(state), memory_left(group.local_size)
        lacks = group.any(need > room)
        if lacks and not self._warned:
            self._warned = True
            needs = group.all_gather_object((need, room))
            lacking = max(needs, key=lambda pair: pair[0] - pair[1])
            said.append(
                f"checkpoint.asynchronous: a copy of tables and optimizer states needs {lacking[0] / GIB:.2f} GiB on a "
                f"rank that has {lacking[1] / GIB:.2f} GiB left, so training stands still while it saves; set "
                "checkpoint.asynchronous=false, or use more hosts"
            )
        return not lacks

    def load_last(
        self, log: IntervalLog, shape: Callable[[Manifest], None], grow: bool = False
    ) -> tuple[Manifest, Growth | None]:
        """Puts the last whole checkpoint into the live model, optimizers and log; returns what it says of itself.

        On another number of ranks the log's window starts empty and dropout draws anew; all else is the same.

        shape: called before the load, to give the live model the shape that it had in the checkpoint.

        grow: the model and the log may have more than the checkpoint's; what they have is returned too.
        """
        group = self.built.group
        path = latest(self.folder.path)
        with self._way_back(path):
            stored = read_manifest(path)
        shape(stored)
        loaded, growth = self._load_grown(path, stored) if grow else (self._load_same(path, stored), None)
        if group.is_main:
            self._mark_if_best(loaded.manifest.state)
        own = loaded.rank_state(group)
        if own is not None:
            log.interval.load_array(own["interval"])
            log.window.load_arrays({"label": own["window_label"], "score": own["window_score"]})
            set_random_state({name[7:]: value for name, value in own.items() if name.startswith("random_")})
        return loaded.manifest, growth

    def _load_same(self, path: AnyPath, stored: Manifest) -> Loaded:
        check_compatible(stored, self.built.manifest.fingerprint, self.built.spec)
        with self._way_back(path), _quiet():
            return load(path, self._state(), self.built.group)

    def _load_grown(self, path: AnyPath, stored: Manifest) -> tuple[Loaded, Growth]:
        axes = self.built.axes
        growth = check_growth(stored, self.built.manifest, self.built.spec, axes)
        planner = GrowPlanner(stored, axes)
        with self._way_back(path), _quiet():
            loaded = load(path, self._state(), self.built.group, planner=planner)
        planner.settle()
        return loaded, growth

    @contextmanager
    def _way_back(self, path: AnyPath) -> Iterator[None]:
        """Tells how to go on from the checkpoint before a damaged one: resuming takes the last one there is."""
        try:
            yield
        except CheckpointError as error:
            earlier = [folder.name for _, folder in committed(self.folder.path) if folder != path]
            way = f"resume again, from {earlier[-1]}" if earlier else "start anew: there is no earlier one"
            raise CheckpointError(f"{error}; or remove {path} and {way}") from error

    def _mark_if_best(self, position: dict[str, Any]) -> None:
        """Catches up on a mark that a kill came before: the newest checkpoint knows a better value than the record."""
        marked, best = best_record(self.folder.path), position["best"]
        if best is not None and position["worse"] == 0 and (marked is None or marked.value != best):
            mark_best(self.folder.path, position["step"], self.built.run.validation.metric, best)

    def _state(self) -> dict[str, Any]:
        parallel = self.built.parallel
        return training_state(parallel.model, parallel.fused_optimizer, self.dense_optimizer, parallel.dense_parameters)

    def _manifest(self, position: dict[str, Any], metrics: dict[str, float | None]) -> Manifest:
        built = self.built
        return Manifest(
            step=position["step"],
            epoch=position["epoch"],
            batch=position["batch"],
            stage=position["stage"],
            config=built.run.model_dump(mode="json"),
            data_fingerprint=built.manifest.fingerprint,
            train_range=(built.manifest.time_range[0], built.manifest.split.train_end),
            tables=table_sizes(built.spec),
            layouts=built.axes,
            plan=built.parallel.plan.model_dump(mode="json"),
            metrics=metrics,
            state=position,
        )

    def _own(self, log: IntervalLog) -> dict[str, Any]:
        window = log.window.to_arrays()
        own: dict[str, Any] = {f"random_{name}": value for name, value in random_state().items()}
        own["interval"] = np.asarray(log.interval.to_array())
        own["window_label"], own["window_score"] = window["label"], window["score"]
        return own


def _try_writing(checkpoints: AnyPath) -> None:
    checkpoints.mkdir(parents=True, exist_ok=True)
    trial = checkpoints / "trial.tmp"
    write_durably(trial, b"")
    trial.unlink()


def load_weights(folder: RunFolder, built: Built, which: str) -> Manifest:
    """Puts the weights of checkpoint `which` ("best", "last", "step-N") into the live model, for evaluation.

    Raises CheckpointError when it is missing, damaged or not of this model.
    """
    path = find(folder.path, which)
    manifest = read_manifest(path)
    check_compatible(manifest.model_copy(update={"data_fingerprint": ""}), "", built.spec)
    with _quiet():
        load(path, training_state(built.parallel.model), built.group)
    return manifest


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch warns of a tensor class that it wants replaced; nothing that a user could act on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*ShardedTensor.*", category=FutureWarning)
        yield


@contextmanager
def _plain_words(path: AnyPath) -> Iterator[None]:
    """Torch's writer of archives does not say why it could not write: it counts bytes."""
    try:
        yield
    except CheckpointError as error:
        if "inline_container" not in str(error):
            raise
        raise CheckpointError(
            f"cannot write {path}: a file came out shorter than what was written to it, so the disk is most likely "
            "full; free space or point --run-dir at another disk; earlier checkpoints are untouched"
        ) from error
