"""Has the source been trained on times that our validation or test range is made of?"""

from __future__ import annotations

from ctr_rec.checkpoint.warm_start.config import WarmStart
from ctr_rec.checkpoint.warm_start.source import Source
from ctr_rec.errors import CheckpointError, DataError
from ctr_rec.schema.manifest import LogManifest, load_manifest


def trained_until(config: WarmStart, source: Source, ours: LogManifest) -> int | None:
    """The last time the source was trained on, in our log's unit; None where nothing says so.

    A checkpoint states its own; what the recipe says besides may only be later.
    """
    stored = source.manifest.train_range if source.manifest is not None else None
    known = [] if config.trained_until is None else [config.trained_until]
    if stored is not None:
        known.append(stored[1] * ours.data_schema.ticks_per_second // _ticks(source, config, ours))
    return max(known, default=None)


def _ticks(source: Source, config: WarmStart, ours: LogManifest) -> int:
    """Ticks per second of the source's log, where it can be found; ours otherwise."""
    data = source.manifest.config.get("data") if source.manifest is not None else None
    log = config.log or (data.get("log") if isinstance(data, dict) else None)
    if not isinstance(log, str):
        return ours.data_schema.ticks_per_second
    try:
        return load_manifest(log).data_schema.ticks_per_second
    except DataError:
        return ours.data_schema.ticks_per_second


def check_times(config: WarmStart, until: int | None, ours: LogManifest) -> list[str]:
    """Doubts for the report. Raises CheckpointError for an overlap that is not forced."""
    end = ours.split.train_end
    if until is None:
        return [
            f"nothing says until when {config.source} was trained: if it has seen times after {end} (our validation "
            "and test range), metrics will be too good; state warm_start.trained_until"
        ]
    if until <= end:
        return []
    sentence = (
        f"{config.source} was trained until {until}, which lies in our validation or test range (it begins after {end})"
    )
    if not config.force:
        raise CheckpointError(
            f"{sentence}: metrics would be too good; take an earlier checkpoint, or a later split, or set "
            "warm_start.force=true"
        )
    return [f"{sentence}, and warm_start.force was set: metrics will be too good"]
