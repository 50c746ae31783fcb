"""Which run and checkpoint a path names, for what looks inside a trained tower."""

from __future__ import annotations

from pathlib import Path

from ctr_rec.errors import ConfigError
from ctr_rec.sharding.group import Group


def run_of(path: Path, checkpoint: str | None) -> tuple[Path, str]:
    """A run's folder and the word for a checkpoint of it. path: of a run, or of one of its checkpoints."""
    name, run_dir = path.name, path.parent.parent
    if (path / "config.json").is_file() or not (name.startswith("step-") and (run_dir / "config.json").is_file()):
        return path, checkpoint or "best"
    if checkpoint is not None:
        raise ConfigError(f"--checkpoint chooses one of a run, and {path} is a checkpoint; remove it or name {run_dir}")
    return run_dir, f"step-{int(name.removeprefix('step-'))}"


def check_alone(group: Group, what: str) -> None:
    """Raises ConfigError on several ranks."""
    if group.size != 1:
        raise ConfigError(f"inspect {what} runs on one process, got {group.size} ranks; start it without torchrun")
