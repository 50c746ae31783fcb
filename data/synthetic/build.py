"""Makes the synthetic log that a JSON file or a folder's config.json asks for (see README.md)."""

from __future__ import annotations

from pathlib import Path

from ctr_rec.prepare.raw import RawLog
from ctr_rec.prepare.synthetic import log_schema, read_raw, read_settings
from ctr_rec.schema.log import LogSchema


def schema_of(raw: Path) -> LogSchema:
    """What the columns mean, which the settings decide. raw: as for `read`."""
    return log_schema(read_settings(raw))


def read(raw: Path) -> RawLog:
    """raw: a JSON file of settings, or a folder that is made where it does not exist."""
    _, log = read_raw(raw)
    return log
