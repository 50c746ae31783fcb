"""What the columns of a log mean. Declared once per data set; storage, tables and encoders follow from it.

Words: an *event* is one thing a user did or was shown; an *impression* is an event that carries a label; an *action*
is what the user did with it, known only afterwards; a *request* is the impressions shown together.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from ctr_rec.config import Config
from ctr_rec.errors import SchemaError

TICKS_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000}


class Kind(str, Enum):
    """Semantic type of a feature."""

    CATEGORY = "category"  # exactly one id per row
    CATEGORIES = "categories"  # any number of ids per row, none included (absent is empty, not zero)
    NUMBER = "number"  # one float per row
    VECTOR = "vector"  # a fixed number of floats per row (a frozen content vector); absent is all zeros
    TEXT = "text"  # kept in the log for language-model towers, never looked up in a table


class Side(str, Enum):
    """The file a feature lives in, and so how often it is stored."""

    USER = "user"  # users/: profile, once per user
    ITEM = "item"  # items/: attributes, once per item
    EVENT = "event"  # events/: once per event


class Known(str, Enum):
    """When an event's feature is known; only REQUEST features may describe a candidate."""

    REQUEST = "request"
    ACTION = "action"


class Feature(Config):
    """A named input column.

    table: the embedding table its ids are rows of (CATEGORY, CATEGORIES); several features may share one.
    known: event features only. ACTION features (dwell time, rating) exist for history and never for a candidate.
    log1p: NUMBER only, applied before standardisation by the training range's mean and deviation.
    optional: NUMBER of events only; some kinds of event have none (a search has no price). Absent is null before
    `prepare`, NaN in the log, counts in no mean or deviation, and adds exactly nothing to an event's vector.
    """

    name: str
    kind: Kind
    side: Side
    table: str | None = None
    known: Known = Known.REQUEST
    log1p: bool = False
    dim: int | None = Field(default=None, ge=1, description="length of a VECTOR")
    optional: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Feature:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.name):
            raise SchemaError(f"feature name {self.name!r}: expected letters, digits and _, not starting with a digit")
        has_ids = self.kind in (Kind.CATEGORY, Kind.CATEGORIES)
        if has_ids != (self.table is not None):
            raise SchemaError(
                f"feature {self.name!r} of kind {self.kind.value} "
                f"{'needs' if has_ids else 'takes no'} table; {'name' if has_ids else 'remove'} it"
            )
        if self.known is Known.ACTION and self.side is not Side.EVENT:
            raise SchemaError(f"feature {self.name!r}: only event features can be known with the action")
        if (self.kind is Kind.VECTOR) != (self.dim is not None):
            raise SchemaError(f"feature {self.name!r}: dim belongs to VECTOR features and is required there")
        if self.optional and (self.kind is not Kind.NUMBER or self.side is not Side.EVENT):
            raise SchemaError(
                f"feature {self.name!r}: optional belongs to NUMBER features of events, got {self.kind.value} of "
                f"{self.side.value}; remove it, and declare ids that may be absent CATEGORIES"
            )
        if self.log1p and self.kind is not Kind.NUMBER:
            raise SchemaError(
                f"feature {self.name!r}: log1p acts on NUMBER features only, got {self.kind.value}; remove it"
            )
        return self

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """One that is always there as before there was `optional`: fingerprints of such logs stay what they were."""
        fields = handler(self)
        return {name: value for name, value in fields.items() if name != "optional" or value}


class Vocabulary(Config):
    """How raw ids become rows of a table. Row 0 is out-of-vocabulary in every table.

    min_count: ids rarer than this in the training range share row 0, which is trained by them.
    hash_rows: instead of a vocabulary, row = 1 + hash64(id) mod hash_rows (stated hash, see schema/hashing.py).
    """

    table: str
    min_count: int = Field(default=1, ge=1)
    hash_rows: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> Vocabulary:
        if self.hash_rows is not None and self.min_count > 1:
            raise SchemaError(
                f"vocabulary {self.table!r}: hash_rows gives every id a row, so min_count {self.min_count} would do "
                "nothing; remove one of them"
            )
        return self


class Split(Config):
    """Ranges of request time, in the log's own unit: train <= train_end < validation <= valid_end < test <= test_end.

    Events after test_end are not read at all (an earlier rolling cut). With train_start, training begins after it:
    impressions at or before it are history only, in no split, and take no loss. What is counted on the training range
    (vocabularies, statistics) counts them all the same. So a log is trained day by day: the next day's train_start is
    the day before's train_end. Without valid_end there is a training range and nothing else: a period of a log that is
    followed (see schema/periods.py).
    """

    train_start: int | None = None
    train_end: int
    valid_end: int | None = None
    test_end: int | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Split:
        if self.valid_end is None and self.test_end is not None:
            raise SchemaError(f"split: test_end {self.test_end} without valid_end; name both, or neither for a period")
        ends = [e for e in (self.train_start, self.train_end, self.valid_end, self.test_end) if e is not None]
        if ends != sorted(set(ends)):
            raise SchemaError(
                f"split ends must grow: {'' if self.train_start is None else 'train_start < '}train_end < valid_end < "
                f"test_end, got {ends}"
            )
        return self

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler) -> dict[str, int | None]:
        """Without a train_start as it was before there was one: fingerprints of such logs stay what they were."""
        fields = handler(self)
        return {name: end for name, end in fields.items() if name != "train_start" or end is not None}

    def number(self, request_time: Any) -> Any:
        """Which range a time lies in: 0 train, 1 validation, 2 test, 3 after test_end, -1 up to train_start.

        request_time: a number, a NumPy array, or an expression or column of Polars; the result has its shape.
        """
        if self.valid_end is None:
            number = (request_time > self.train_end) * 3
        else:
            number = (request_time > self.train_end) * 1 + (request_time > self.valid_end) * 1
        if self.train_start is not None:
            number = number - (request_time <= self.train_start) * 1
        return number if self.test_end is None else number + (request_time > self.test_end) * 1

    def holds(self, number: int, request_time: Any) -> Any:
        """Whether a time lies in the range of that number: `number(request_time) == number` in fewer steps."""
        if self.valid_end is None:  # nothing lies in a range that ends where it begins
            ends = (self.train_start, self.train_end, self.train_end, self.train_end)
        else:
            ends = (self.train_start, self.train_end, self.valid_end, self.test_end)
        low, high = ends[number], ends[number + 1]
        if low is None:
            return request_time <= high
        return request_time > low if high is None else (request_time > low) & (request_time <= high)


class Counter(Config):
    """A running statistic over *visible* events (known_at < request time), stored per impression: (count, rate).

    by: what it is counted by. "item": all earlier labelled events of the candidate item, by anyone; "user": of the
    user. Becomes two NUMBER inputs of the impression, `<name>_count` (log1p) and `<name>_rate` (smoothed label mean).
    """

    name: str
    by: str = Field(pattern="^(item|user)$")
    label: str


class LogSchema(Config):
    """One data set: its features, vocabularies, actions, labels and the two clocks.

    time_unit: of every time in the log ("s", "ms" or "us").
    action_delay: known_at = time + action_delay; one constant per log, never a function of the action.
    actions: names by code; an event's `action` column holds the code.
    """

    name: str
    time_unit: str = Field(default="s", pattern="^(s|ms|us)$")
    action_delay: int = Field(default=0, ge=0)
    features: tuple[Feature, ...]
    vocabularies: tuple[Vocabulary, ...]
    actions: tuple[str, ...] = Field(min_length=1)
    labels: tuple[str, ...] = Field(min_length=1)
    counters: tuple[Counter, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> LogSchema:
        for what, names in (
            ("feature", [f.name for f in self.features]),
            ("vocabulary", [v.table for v in self.vocabularies]),
            ("action", list(self.actions)),
            ("label", list(self.labels)),
            ("counter", [c.name for c in self.counters]),
        ):
            double = sorted({n for n in names if names.count(n) > 1})
            if double:
                raise SchemaError(f"schema {self.name!r}: {what} {', '.join(double)} is declared more than once")
        tables = {v.table for v in self.vocabularies}
        for f in self.features:
            if f.table is not None and f.table not in tables:
                raise SchemaError(
                    f"schema {self.name!r}: feature {f.name!r} names table {f.table!r}, which has no vocabulary; "
                    f"declared: {', '.join(sorted(tables)) or 'none'}"
                )
        unused = sorted(tables - {f.table for f in self.features if f.table is not None})
        if unused:
            raise SchemaError(f"schema {self.name!r}: no feature uses table {', '.join(unused)}; remove its vocabulary")
        for c in self.counters:
            if c.label not in self.labels:
                raise SchemaError(f"schema {self.name!r}: counter {c.name!r} counts unknown label {c.label!r}")
        return self

    @property
    def ticks_per_second(self) -> int:
        return TICKS_PER_SECOND[self.time_unit]

    def of(self, side: Side) -> list[Feature]:
        """Features of one side, in declared order."""
        return [f for f in self.features if f.side is side]

    def feature(self, name: str) -> Feature:
        found = [f for f in self.features if f.name == name]
        if not found:
            raise SchemaError(f"schema {self.name!r} has no feature {name!r}; it has {[f.name for f in self.features]}")
        return found[0]
