"""The checkpoints of a run in training: what goes in besides tensors, and what comes back on resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctr_rec.checkpoint.grow import GrowPlanner, Growth, check_growth
from ctr_rec.checkpoint.history import best_record, checkpoint_folder, clean, find, latest, mark_best
from ctr_rec.checkpoint.manifest import MANIFEST, Manifest, check_compatible, read_manifest, table_sizes
from ctr_rec.checkpoint.random_state import random_state, set_random_state
from ctr_rec.checkpoint.state import training_state
from ctr_rec.checkpoint.store import Loaded, load, save
from ctr_rec.train.build import Built
from ctr_rec.train.folder import RunFolder
from ctr_rec.train.record import IntervalLog


class Checkpoints:
    """Saves and restores one run. Every method is a collective."""

    def __init__(self, folder: RunFolder, built: Built, dense_optimizer: torch.optim.Optimizer) -> None:
        self.folder = folder
        self.built = built
        self.dense_optimizer = dense_optimizer

    def save(
        self, position: dict[str, Any], log: IntervalLog, metrics: dict[str, float | None], best: float | None
    ) -> None:
        """Keeps the present state under its step.

        metrics: of the latest validation, kept beside it. best: the watched metric, where it is the best so far.

        A step that is saved already is not written again.
        """
        group, run, step = self.built.group, self.built.run, int(position["step"])
        path = checkpoint_folder(self.folder.path, step)
        if not group.any(group.is_main and (path / MANIFEST).is_file()):
            save(path, self._state(), self._manifest(position, metrics), self._own(log), group)
        if group.is_main:
            if best is not None:
                mark_best(self.folder.path, step, run.validation.metric, best)
            clean(self.folder.path, run.checkpoint.keep)
        group.barrier()

    def load_last(self, log: IntervalLog, grow: bool = False) -> tuple[dict[str, Any], Growth | None]:
        """Puts the last whole checkpoint into the live model, optimizers and log; returns the position.

        On another number of ranks the log's window starts empty and dropout draws anew; all else is the same.

        grow: the model and the log may have more than the checkpoint's; what they have is returned too.
        """
        group = self.built.group
        path = latest(self.folder.path)
        stored = read_manifest(path)
        loaded, growth = self._load_grown(path, stored) if grow else (self._load_same(path, stored), None)
        if group.is_main:
            self._mark_if_best(loaded.manifest.state)
        own = loaded.rank_state(group)
        if own is not None:
            log.interval.load_array(own["interval"])
            log.window.load_arrays({"label": own["window_label"], "score": own["window_score"]})
            set_random_state({name[7:]: value for name, value in own.items() if name.startswith("random_")})
        return loaded.manifest.state, growth

    def _load_same(self, path: Path, stored: Manifest) -> Loaded:
        check_compatible(stored, self.built.manifest.fingerprint, self.built.spec)
        return load(path, self._state(), self.built.group)

    def _load_grown(self, path: Path, stored: Manifest) -> tuple[Loaded, Growth]:
        axes = self.built.axes
        growth = check_growth(stored, self.built.manifest, self.built.spec, axes)
        planner = GrowPlanner(stored, axes)
        loaded = load(path, self._state(), self.built.group, planner=planner)
        planner.settle()
        return loaded, growth

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


def load_weights(folder: RunFolder, built: Built, which: str) -> Manifest:
    """Puts the weights of checkpoint `which` ("best", "last", "step-N") into the live model, for evaluation.

    Raises CheckpointError when it is missing, damaged or not of this model.
    """
    path = find(folder.path, which)
    manifest = read_manifest(path)
    check_compatible(manifest.model_copy(update={"data_fingerprint": ""}), "", built.spec)
    load(path, training_state(built.parallel.model), built.group)
    return manifest
