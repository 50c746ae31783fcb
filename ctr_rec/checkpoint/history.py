"""The checkpoints of a run: which are whole, which is the latest and the best, and which may go."""

from __future__ import annotations

import shutil
from pathlib import Path

from ctr_rec.checkpoint.manifest import MANIFEST
from ctr_rec.config import Config
from ctr_rec.errors import CheckpointError
from ctr_rec.files import sync_folder, write_json

FOLDER = "checkpoints"
BEST = "best.json"


class Best(Config):
    """Which step was best so far, by which metric."""

    step: int
    metric: str
    value: float


def checkpoint_folder(run: Path, step: int) -> Path:
    return run / FOLDER / f"step-{step:08d}"


def committed(run: Path) -> list[tuple[int, Path]]:
    """The whole checkpoints of a run with their steps, oldest first."""
    found = []
    for folder in (run / FOLDER).glob("step-*"):
        number = folder.name.removeprefix("step-")
        if number.isdecimal() and (folder / MANIFEST).is_file():
            found.append((int(number), folder))
    return sorted(found)


def latest(run: Path) -> Path:
    """The newest whole checkpoint. Raises CheckpointError when there is none."""
    found = committed(run)
    if not found:
        raise CheckpointError(f"{run} has no whole checkpoint (a folder in {FOLDER}/ with {MANIFEST}); start a new run")
    return found[-1][1]


def mark_best(run: Path, step: int, metric: str, value: float) -> None:
    """Records that the checkpoint of `step` is the best so far; call it on one rank, after saving."""
    record = Best(step=step, metric=metric, value=value)
    write_json(run / FOLDER / BEST, record.model_dump(mode="json"))


def best_record(run: Path) -> Best | None:
    path = run / FOLDER / BEST
    return Best.model_validate_json(path.read_text()) if path.is_file() else None


def best(run: Path) -> Path:
    """The best whole checkpoint. Raises CheckpointError when none was marked or it is gone."""
    record = best_record(run)
    if record is None:
        raise CheckpointError(f"{run} has no best checkpoint: none was validated yet; use the last one")
    folder = checkpoint_folder(run, record.step)
    if not (folder / MANIFEST).is_file():
        raise CheckpointError(f"the best checkpoint {folder} is gone; use the last one")
    return folder


def find(run: Path, which: str) -> Path:
    """`best`, `last` or `step-N` to a folder. Raises CheckpointError that lists what there is."""
    if which == "best":
        return best(run)
    if which == "last":
        return latest(run)
    steps = {f"step-{step}": folder for step, folder in committed(run)}
    if which not in steps:
        raise CheckpointError(f"{run} has no checkpoint {which!r}; it has: {', '.join(['best', 'last', *steps])}")
    return steps[which]


def clean(run: Path, keep_last: int) -> list[Path]:
    """Removes all but the best and the last `keep_last` checkpoints, and what unfinished saves left.

    Call it on one rank, never while a save is under way. Returns what was removed.
    """
    assert keep_last >= 1, f"at least one checkpoint must stay, got keep_last={keep_last}"
    whole = committed(run)
    record = best_record(run)
    keep = {folder for _, folder in whole[-keep_last:]}
    if record is not None:
        keep.add(checkpoint_folder(run, record.step))
    gone = sorted(f for f in (run / FOLDER).glob("step-[0-9]*") if f not in keep)
    for folder in gone:
        remove(folder)
    return gone


def remove(folder: Path) -> None:
    """Removes a checkpoint; the manifest first, so that what a kill leaves is not taken for one."""
    (folder / MANIFEST).unlink(missing_ok=True)
    sync_folder(folder)
    shutil.rmtree(folder)
