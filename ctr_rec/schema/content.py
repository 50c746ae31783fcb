"""Frozen item vectors in a file: what it holds, and what the JSON beside it says of where they come from.

`FILE.parquet` has two columns: `item_id` (the raw id, integer or string, once each) and `vector` (a list of equally
many numbers, float16, float32 or float64). `FILE.json` beside it is a `ContentInfo`; a file of one's own needs none.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from ctr_rec.config import Config, from_json
from ctr_rec.errors import SchemaError

ITEM_ID, VECTOR = "item_id", "vector"
CONTENT = "content"  # the feature that such vectors become in a prepared log


class ContentInfo(Config):
    """Where vectors come from.

    method: in a word, such as "text" or "cooccurrence". model: what turned items into vectors, with its version; files
    of the same model have vectors in the same space. settings: whatever else it takes to make them again.
    trained_from, trained_until: first and last time, in `time_unit`, of the log or logs that they were learnt from;
    None where they were learnt from none.
    """

    method: str
    model: str
    settings: dict[str, str | int | float] = Field(default_factory=dict)
    trained_from: int | None = None
    trained_until: int | None = None
    time_unit: str | None = Field(default=None, pattern="^(s|ms|us)$")

    @model_validator(mode="after")
    def _consistent(self) -> ContentInfo:
        if (self.trained_until is None) != (self.time_unit is None):
            raise SchemaError("trained_until and time_unit go together: give both, or neither")
        if self.trained_from is not None and (self.trained_until is None or self.trained_from > self.trained_until):
            raise SchemaError(
                f"trained_from {self.trained_from} needs a trained_until that is not before it, got "
                f"{self.trained_until}"
            )
        return self


def info_path(file: Path) -> Path:
    """Of the JSON beside a file of vectors."""
    return file.with_suffix(".json")


def load_info(file: Path) -> ContentInfo | None:
    """What the JSON beside a file of vectors says; None where there is none. Raises ConfigError where it is another."""
    path = info_path(file)
    return from_json(ContentInfo, path.read_text(encoding="utf-8"), str(path)) if path.is_file() else None
