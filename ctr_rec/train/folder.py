"""A run's folder: where each thing of a run lies, and what makes it a run.

config.json         the resolved run              metrics.jsonl   one JSON object per log line and validation
environment.json    versions, code, hardware      tensorboard/    the same numbers as event files
plan.json           placement of every table      checkpoints/    DCP folders, the manifest last
predictions/        one Parquet file per split    seen/           impressions trained on, where asked for
report.html         what happened, to look at     clean-stop.json marks that the run ended or stopped in order
warm-start.json     what came from another model, where it did
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctr_rec.checkpoint.history import committed
from ctr_rec.config import from_json
from ctr_rec.errors import ConfigError
from ctr_rec.train.run import Run

# Settings a resumed run may change: how long it goes on, and what only the machine or the placement has to do with.
FREE_ON_RESUME = (
    "train.epochs",
    "train.max_steps",
    "train.log_every",
    "train.threads",
    "data.log",  # a log that moved; its fingerprint is compared with the checkpoint's
    "data.workers",
    "data.prefetch",
    "checkpoint",
    "sharding.memory_per_rank_gib",
    "sharding.reserve",
    "sharding.batch_size",
    "sharding.unused_parameters",
)


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def seen(self) -> Path:
        return self.path / "seen"

    @property
    def clean_stop(self) -> Path:
        return self.path / "clean-stop.json"

    def predictions(self, split: str) -> Path:
        return self.path / "predictions" / f"{split}.parquet"

    def open(self, run: Run, resume: bool) -> bool:
        """Makes the folder, or checks that it holds the same run. Call on one rank only.

        Returns whether there is a checkpoint to go on from. A resumed run that has none yet starts anew, so that a
        launcher can give `--resume` at every try.

        Raises:
            ConfigError: not writable; not empty without resume; holds something else than a run, or another run.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            filled = any(self.path.iterdir())
        except OSError as error:
            raise ConfigError(f"run folder {self.path} cannot be made or read: {error.strerror}") from error
        if not os.access(self.path, os.W_OK):
            raise ConfigError(f"run folder {self.path} is not writable; choose another --run-dir")
        if filled and not resume:
            raise ConfigError(f"run folder {self.path} is not empty; add --resume to go on or choose another --run-dir")
        if filled and not self.config.is_file():
            raise ConfigError(f"nothing to resume in {self.path}: it has no config.json; choose another --run-dir")
        if filled:
            self._same_run(run)
        self.clean_stop.unlink(missing_ok=True)
        write_json(self.config, run.model_dump(mode="json"))
        return bool(committed(self.path))

    def load_run(self) -> Run:
        """The saved run. Raises ConfigError when the folder holds none."""
        if not self.config.is_file():
            raise ConfigError(f"{self.path} is not a run folder: it has no config.json")
        return from_json(Run, self.config.read_text(), str(self.config))

    def _same_run(self, run: Run) -> None:
        before = _flat(self.load_run().model_dump(mode="json"))
        now = _flat(run.model_dump(mode="json"))
        changed = [
            f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key) and not key.startswith(FREE_ON_RESUME)
        ]
        if changed:
            raise ConfigError(
                f"--resume needs the run that {self.path} was started with; changed: {'; '.join(changed)}. "
                "Restore these settings or start a new --run-dir"
            )

    def forget_after(self, step: int) -> None:
        """Drops log lines later than the checkpoint that training goes on from."""
        if self.metrics.is_file():
            lines = self.metrics.read_text().splitlines()
            kept = [line for line in lines if _step_of(line) <= step]
            partial = self.metrics.with_suffix(".partial")
            partial.write_text("".join(line + "\n" for line in kept))
            partial.replace(self.metrics)


def _step_of(line: str) -> float:
    """A line cut short by a kill belongs to no step and is dropped."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return float("inf")


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(_flat(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def write_json(path: Path, value: Any) -> None:
    """Writes the whole file or leaves the old one. Keys stay in order: the order of channels is part of a model."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=2) + "\n")
    partial.replace(path)
