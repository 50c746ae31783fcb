"""The checkpoints of a run: which are whole, which is the latest and the best, and which may go."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from ctr_rec.checkpoint.manifest import MANIFEST
from ctr_rec.config import Config
from ctr_rec.errors import CheckpointError
from ctr_rec.files import AnyPath, place, remove_tree, sync_folder, write_json

FOLDER = "checkpoints"
BEST = "best.json"
CONFIG = "config.json"


class Best(Config):
    """Which step was best so far, by which metric."""

    step: int
    metric: str
    value: float


def root(run: Path) -> AnyPath:
    """Where the checkpoints of a run lie: `checkpoint.folder` of its config.json, else a folder inside the run's."""
    try:
        config = json.loads((run / CONFIG).read_text())
        named = config.get("checkpoint", {}).get("folder")
    # No run's folder, or a config that whoever reads it whole complains about.
    except (OSError, ValueError, AttributeError):
        named = None
    return place(named) if named else run / FOLDER


def checkpoint_folder(run: Path, step: int) -> AnyPath:
    return root(run) / f"step-{step:08d}"


def committed(run: Path) -> list[tuple[int, AnyPath]]:
    """The whole checkpoints of a run with their steps, oldest first."""
    return whole_in(root(run))


def whole_in(checkpoints: AnyPath) -> list[tuple[int, AnyPath]]:
    """The whole checkpoints in a folder of checkpoints with their steps, oldest first."""
    found: list[tuple[int, AnyPath]] = []
    for folder in checkpoints.glob("step-*"):
        number = folder.name.removeprefix("step-")
        if number.isdecimal() and (folder / MANIFEST).is_file():
            found.append((int(number), folder))
    return sorted(found, key=lambda pair: pair[0])


def latest(run: Path) -> AnyPath:
    """The newest whole checkpoint. Raises CheckpointError when there is none."""
    found = committed(run)
    if not found:
        raise CheckpointError(
            f"{run} has no whole checkpoint (a folder in {root(run)} with {MANIFEST}); start a new run"
        )
    return found[-1][1]


def mark_best(run: Path, step: int, metric: str, value: float) -> None:
    """Records that the checkpoint of `step` is the best so far; call it on one rank, after saving."""
    record = Best(step=step, metric=metric, value=value)
    write_json(root(run) / BEST, record.model_dump(mode="json"))


def best_record(run: Path) -> Best | None:
    """Which checkpoint is marked as the best. Raises CheckpointError when the mark cannot be read."""
    path = root(run) / BEST
    if not path.is_file():
        return None
    try:
        return Best.model_validate_json(path.read_text())
    except (ValidationError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path} cannot be read as the mark of the best checkpoint; remove it, and name a checkpoint (last, step-N)"
        ) from error


def best(run: Path) -> AnyPath:
    """The best whole checkpoint. Raises CheckpointError when none was marked or it is gone."""
    record = best_record(run)
    if record is None:
        raise CheckpointError(f"{run} has no best checkpoint: none was validated yet; use the last one")
    folder = checkpoint_folder(run, record.step)
    if not (folder / MANIFEST).is_file():
        raise CheckpointError(f"the best checkpoint {folder} is gone; use the last one")
    return folder


def find(run: Path, which: str) -> AnyPath:
    """`best`, `last` or `step-N` to a folder. Raises CheckpointError that lists what there is."""
    if which == "best":
        return best(run)
    if which == "last":
        return latest(run)
    steps = {f"step-{step}": folder for step, folder in committed(run)}
    if which not in steps:
        raise CheckpointError(f"{run} has no checkpoint {which!r}; it has: {', '.join(['best', 'last', *steps])}")
    return steps[which]


def clean(run: Path, keep_last: int) -> list[AnyPath]:
    """Removes all but the best and the last `keep_last` checkpoints, and what unfinished saves left.

    Call it on one rank, never while a save is under way. Returns what was removed.
    """
    assert keep_last >= 1, f"at least one checkpoint must stay, got keep_last={keep_last}"
    whole = committed(run)
    record = best_record(run)
    keep = {folder for _, folder in whole[-keep_last:]}
    if record is not None:
        keep.add(checkpoint_folder(run, record.step))
    gone = sorted((f for f in root(run).glob("step-[0-9]*") if f not in keep), key=str)
    for folder in gone:
        remove(folder)
    return gone


def remove(folder: AnyPath) -> None:
    """Removes a checkpoint; the manifest first, so that what a kill leaves is not taken for one."""
    (folder / MANIFEST).unlink(missing_ok=True)
    sync_folder(folder)
    remove_tree(folder)
