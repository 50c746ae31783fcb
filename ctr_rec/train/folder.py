"""A run's folder: where each thing of a run lies, and what makes it a run.

config.json         the resolved run              metrics.jsonl   one JSON object per log line and validation
inputs.json         features and tables it reads  seen/           impressions trained on, where asked for
environment.json    versions, code, hardware      tensorboard/    the same numbers as event files
plan.json           placement of every table      checkpoints/    DCP folders, the manifest last
predictions/        one Parquet file per split    clean-stop.json marks that the run ended or stopped in order
report.html         what happened, to look at     config-before-step-N.json   the run before it grew at step N
growth.jsonl        what --grow added, by step    warm-start.json what came from another model, where it did
days.jsonl          each period that was followed, scored before it was trained on; days.svg draws it
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctr_rec.checkpoint.history import committed, whole_in
from ctr_rec.checkpoint.manifest import read_manifest
from ctr_rec.config import from_json
from ctr_rec.errors import ConfigError
from ctr_rec.files import place, write_atomically, write_json
from ctr_rec.schema.table import SparseSpec
from ctr_rec.train.run import Run

# How long a run goes on.
LENGTH = ("train.epochs", "train.max_steps")
# Settings a resumed run may change: how long it goes on, and what only the machine or the placement has to do with.
FREE_ON_RESUME = (
    *LENGTH,
    "train.log_every",
    "train.threads",
    "data.log",  # a log that moved; its fingerprint is compared with the checkpoint's
    "data.workers",
    "data.prefetch",
    "checkpoint",  # a folder that moved must hold checkpoints
    "sharding.memory_per_rank_gib",
    "sharding.reserve",
    "sharding.batch_size",
    "sharding.unused_parameters",
)


# Settings that may have more when a run goes on with --grow; those of tables that exist already stay.
GROWS = ("embedding.exclude", "embedding.tables")


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def inputs(self) -> Path:
        return self.path / "inputs.json"

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

    def open(self, run: Run, resume: bool, grow: bool = False) -> bool:
        """Makes the folder, or checks that it holds the same run. Call on one rank only.

        Returns whether there is a checkpoint to go on from. A resumed run that has none yet starts anew, so that a
        launcher can give `--resume` at every try. grow: the run may have more; the folder then stays as it is until
        the checkpoint has been loaded (`settle`), so that what is refused leaves no trace.

        Raises:
            ConfigError: not writable; not empty without resume; holds something else than a run, or another run.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"run folder {self.path}: expected a folder, got a file; choose another --run-dir")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            filled = any(self.path.iterdir())
        except OSError as error:
            raise ConfigError(
                f"run folder {self.path} cannot be made or read: {error.strerror}; choose another --run-dir"
            ) from error
        if not os.access(self.path, os.W_OK):
            raise ConfigError(f"run folder {self.path} is not writable; choose another --run-dir")
        if filled and not resume:
            raise ConfigError(f"run folder {self.path} is not empty; add --resume to go on or choose another --run-dir")
        if filled and not self.config.is_file():
            raise ConfigError(f"nothing to resume in {self.path}: it has no config.json; choose another --run-dir")
        found = committed(self.path)
        if filled:
            self._same_run(run, read_manifest(found[-1][1]).tables if grow and found else None)
        self._check_checkpoints(run, filled)
        if not (grow and found):
            self.settle(run)
        return bool(found)

    def settle(self, run: Run) -> None:
        """The run is on its way: this is its config, and it has not ended."""
        self.clean_stop.unlink(missing_ok=True)
        write_json(self.config, run.model_dump(mode="json"))

    def _check_checkpoints(self, run: Run, resumed: bool) -> None:
        """A folder of checkpoints elsewhere belongs to one run, and a resumed run must not lose sight of its own."""
        now = run.checkpoint.folder
        before = self.load_run().checkpoint.folder if resumed else now
        if now is None and before is None:
            return
        found = whole_in(place(now)) if now else whole_in(self.checkpoints)
        if found and not resumed:
            raise ConfigError(
                f"checkpoint.folder={now} holds checkpoints of another run ({found[-1][1].name}); name another folder, "
                "or --resume that run"
            )
        if now != before and not found and committed(self.path):
            raise ConfigError(
                f"checkpoint.folder was {before}, is {now}, which holds no whole checkpoint: the run would start "
                "anew; copy its checkpoints there, or restore the setting"
            )

    def load_run(self) -> Run:
        """The saved run. Raises ConfigError when the folder holds none."""
        if not self.config.is_file():
            raise ConfigError(f"{self.path} is not a run folder: it has no config.json")
        return from_json(Run, self.config.read_text(), str(self.config))

    def load_inputs(self) -> SparseSpec | None:
        """What the model was trained to read; None in a folder that does not say. Raises ConfigError when damaged."""
        return from_json(SparseSpec, self.inputs.read_text(), str(self.inputs)) if self.inputs.is_file() else None

    def _same_run(self, run: Run, grown: Mapping[str, Any] | None) -> None:
        """grown: the tables of the checkpoint, when the run may have more than it; None when it must be the same."""
        changed = self.changed(run, grown=grown)
        if changed:
            more = grown is None and any(text.startswith(GROWS) for text in changed)
            raise ConfigError(
                f"--resume needs the run that {self.path} was started with; changed: {'; '.join(changed)}. "
                "Restore these settings or start a new --run-dir"
                f"{' (--grow lets a recipe have more features and tables)' if more else ''}"
            )

    def changed(
        self, run: Run, free: tuple[str, ...] = FREE_ON_RESUME, grown: Mapping[str, Any] | None = None
    ) -> list[str]:
        """Settings in which the saved run is another one, each as "key was a, is b". free: prefixes to pass over.

        grown: as of `open`, the tables of a checkpoint that the run may have more than.
        """
        before = _flat(self.load_run().model_dump(mode="json"))
        now = _flat(run.model_dump(mode="json"))
        return [
            f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key)
            and not key.startswith(free)
            and not (grown is not None and _may_grow(key, grown))
        ]

    def stage_lines(self) -> list[dict[str, Any]]:
        """Of metrics.jsonl: each stage that ended, with its step, name, steps and seconds."""
        texts = self.metrics.read_text().splitlines() if self.metrics.is_file() else []
        lines = [json.loads(text) for text in texts if '"stage"' in text]
        return [line for line in lines if line["kind"] == "stage"]

    def forget_after(self, step: int) -> None:
        """Drops log lines later than the checkpoint that training goes on from."""
        if self.metrics.is_file():
            lines = self.metrics.read_text().splitlines()
            kept = [line for line in lines if _step_of(line) <= step]
            write_atomically(self.metrics, "".join(line + "\n" for line in kept))


def _may_grow(key: str, tables: Mapping[str, Any]) -> bool:
    return key.startswith(GROWS) and (key.removeprefix("embedding.tables.").partition(".")[0] not in tables)


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
