"""Makes the synthetic log that a JSON file or a folder's config.json asks for (see README.md)."""

from __future__ import annotations

from pathlib import Path

from ctr_rec.errors import ConfigError
from ctr_rec.prepare.raw import RawLog
from ctr_rec.prepare.recipe import schema_beside
from ctr_rec.prepare.synthetic import log_schema, read_raw
from ctr_rec.schema.log import LogSchema, Side


def read(raw: Path) -> RawLog:
    """raw: a JSON file of settings, or a folder that is made where it does not exist."""
    config, log = read_raw(raw)
    schema = schema_beside(__file__)
    if log_schema(config) != schema:
        raise ConfigError(
            f"{raw}: expected the settings that schema.py declares ({_declared(schema)}), got "
            f"{_declared(log_schema(config))}; write them into data/synthetic/schema.py"
        )
    return log


def _declared(schema: LogSchema) -> str:
    """The settings that a schema follows from, in words."""
    effect = "with" if schema.of(Side.USER) else "without"
    dim = schema.feature("content").dim
    return f"action_delay {schema.action_delay}, content_dim {dim}, {effect} the effect profile"
