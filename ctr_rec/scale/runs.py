"""The runs of a family: each is trained to its end and scored on validation once, and found done the next time."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctr_rec.errors import ConfigError, DataError
from ctr_rec.evaluate.main import keep, score
from ctr_rec.evaluate.predictions import Predictions
from ctr_rec.schema.manifest import SPLITS, load_manifest
from ctr_rec.sharding.agreement import on_main
from ctr_rec.sharding.group import Group
from ctr_rec.train.folder import FREE_ON_RESUME, LENGTH, RunFolder
from ctr_rec.train.main import fit
from ctr_rec.train.run import Run

VALID = SPLITS[1]
# A run that is done was as long as it was told to be; another length is another run.
_FREE = tuple(key for key in FREE_ON_RESUME if key not in LENGTH)


@dataclass(frozen=True)
class Member:
    """A run of the family and the folder it lies in."""

    run: Run
    folder: Path

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics" / f"{VALID}.json"

    @property
    def trained(self) -> bool:
        """Whether training came to its end; a run asked to stop has not."""
        marker = RunFolder(self.folder).clean_stop
        return marker.is_file() and json.loads(marker.read_text())["end"] != "stopped"

    @property
    def done(self) -> bool:
        """Whether nothing is left to do. Raises ConfigError where the folder holds another finished run."""
        if not self.trained:
            return False
        changed = RunFolder(self.folder).changed(self.run, _FREE)
        if changed:
            raise ConfigError(
                f"{self.folder} holds a finished run with other settings: {'; '.join(changed)}. Restore them or choose "
                "another --run-dir"
            )
        return self.metrics.is_file()

    def predictions(self) -> Predictions:
        return Predictions.load(RunFolder(self.folder).predictions(VALID))

    def measured(self) -> dict[str, Any]:
        """Validation metrics and cost of a run that is done.

        Raises DataError where they speak of another log than there is now, or GAUC is undefined.
        """
        found = json.loads(self.metrics.read_text())
        now = load_manifest(self.run.data.log).fingerprint
        if found["data_fingerprint"] != now:
            raise DataError(
                f"{self.metrics} was measured on data with fingerprint {found['data_fingerprint'][:16]}, but "
                f"{self.run.data.log} now has {now[:16]}; prepare that log again, or choose another --run-dir"
            )
        if found["metrics"]["gauc"] is None:
            raise DataError(
                f"{self.metrics}: GAUC is undefined ({found['undefined'].get('gauc', 'no reason given')}); scale needs "
                "a validation range in which some user has both labels"
            )
        return found


def train_and_score(member: Member, group: Group) -> bool:
    """Does what is left to do for one run, on this rank of an open group. Whether it came to its end.

    The best checkpoint is scored, as `ctr-rec evaluate` does: the same choice for every size, made on the same range,
    so gains of all sizes profit alike.
    """
    done, trained = on_main(group, lambda: (member.done, member.trained))
    if done:
        return True
    if not trained:
        outcome = fit(member.run, RunFolder(member.folder), group, resume=True)
        if outcome.end == "stopped":
            return False
    scored = score(member.folder, VALID, "best", None, group)
    on_main(group, lambda: keep(member.folder, VALID, scored).name)
    return True
