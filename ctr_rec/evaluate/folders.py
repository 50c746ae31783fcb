"""Run folders as a user names several at once."""

from __future__ import annotations

from glob import glob
from pathlib import Path

from ctr_rec.errors import ConfigError


def run_folders(text: str) -> list[Path]:
    """`a`, `a,b` or a glob, as existing folders in order. Raises ConfigError where there is none."""
    found: list[Path] = []
    for part in text.split(","):
        matches = sorted(glob(part)) if any(c in part for c in "*?[") else [part]
        if not matches:
            raise ConfigError(f"no run folder matches {part!r} (looked from {Path.cwd()})")
        found += [Path(m) for m in matches]
    for path in found:
        if not path.is_dir():
            raise ConfigError(f"run folder {path} does not exist (looked from {Path.cwd()})")
    return found
