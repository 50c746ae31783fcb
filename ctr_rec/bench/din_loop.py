"""Our whole training loop as a user runs it: reader, trainer, its records. Speed is what the trainer itself reports."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from pathlib import Path

from ctr_rec.sharding.group import Group
from ctr_rec.train.folder import RunFolder
from ctr_rec.train.main import fit
from ctr_rec.train.run import Run


def impressions_per_second(run: Run, group: Group) -> float:
    """Of a run whose log line comes once, at its last step. Reading the first rows counts, validation does not."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        run_folder = RunFolder(Path(folder) / "run")
        fit(run, run_folder, group, resume=False)
        lines = [json.loads(line) for line in run_folder.metrics.read_text().splitlines()]
    (line,) = (line for line in lines if line["kind"] == "train")
    return line["impressions_per_s"]
