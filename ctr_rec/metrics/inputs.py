"""The door of every metric: labels, scores and group ids are checked here once and nowhere behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ctr_rec.errors import ConfigError, DataError

ScoreKind: TypeAlias = Literal["logit", "probability"]
Labels: TypeAlias = npt.NDArray[np.uint8]
Scores: TypeAlias = npt.NDArray[np.floating]
Codes: TypeAlias = npt.NDArray[np.int64]
Groups: TypeAlias = npt.ArrayLike | Sequence[str] | pa.Array | pa.ChunkedArray

# Ids in a range this many times wider than the number of rows are hashed instead of counted from their minimum.
_DENSE_RANGE_FACTOR = 4


class MetricValue(float):
    """A float that says why it is NaN.

    `reason` is None when the metric is defined. It behaves as a plain float everywhere else, JSON included.
    """

    reason: str | None

    def __new__(cls, value: float, reason: str | None = None) -> MetricValue:
        made = super().__new__(cls, value)
        made.reason = reason
        return made

    @classmethod
    def undefined(cls, reason: str) -> MetricValue:
        """NaN and the reason for it."""
        return cls(float("nan"), reason)

    def __getnewargs__(self) -> tuple[float, str | None]:
        return float(self), self.reason


def _refuse_row(what: str, expected: str, got: object, row: int, count: int, remedy: str) -> NoReturn:
    raise DataError(f"{what}: expected {expected}, got {got} at row {row} ({count} such rows); {remedy}")


def as_labels(label: npt.ArrayLike) -> Labels:
    """Labels as uint8 [N]. DataError names the first row that is neither 0 nor 1."""
    raw = np.asarray(label)
    if raw.ndim != 1:
        raise DataError(f"label: expected one dimension, got shape {raw.shape}; pass one label per impression")
    if raw.size == 0:
        return np.empty(0, np.uint8)
    if raw.dtype.kind not in "biuf":
        raise DataError(f"label: expected numbers 0 and 1, got type {raw.dtype}; map the labels to 0 and 1 first")
    wrong = (raw != 0) & (raw != 1)
    if wrong.any():
        row = int(wrong.argmax())
        _refuse_row("label", "0 or 1", raw[row], row, int(wrong.sum()), "derive a binary label in `prepare`")
    return raw.astype(np.uint8, copy=False)


def as_scores(score: npt.ArrayLike, kind: ScoreKind = "logit") -> Scores:
    """Scores as float32 or float64 [N]; the width given is kept. DataError names the first row with NaN, and for
    `kind="probability"` the first outside [0, 1]. Infinite logits are legal: they have a rank and a loss."""
    if kind not in ("logit", "probability"):
        raise ConfigError(f"score kind: expected 'logit' or 'probability', got {kind!r}; name one of the two")
    raw = np.asarray(score)
    if raw.ndim != 1:
        raise DataError(f"score: expected one dimension, got shape {raw.shape}; pass one score per impression")
    if raw.size and raw.dtype.kind not in "biuf":
        raise DataError(f"score: expected numbers, got type {raw.dtype}; pass logits or probabilities")
    narrow = raw.dtype in (np.dtype(np.float32), np.dtype(np.float16))
    values = raw.astype(np.float32 if narrow else np.float64, copy=False)
    missing = np.isnan(values)
    if missing.any():
        row = int(missing.argmax())
        remedy = "the model diverged or a dense feature holds NaN: look at that impression's inputs"
        _refuse_row("score", "a number", "NaN", row, int(missing.sum()), remedy)
    if kind == "probability":
        outside = (values < 0) | (values > 1)
        if outside.any():
            row = int(outside.argmax())
            remedy = "these look like logits: say kind='logit'"
            _refuse_row("score", "a probability in [0, 1]", values[row], row, int(outside.sum()), remedy)
    return values


def same_length(**columns: Sequence[object] | npt.NDArray[np.generic] | pa.Array) -> int:
    """The common length of the named columns; DataError lists all lengths when they differ."""
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        got = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError(f"metric input: expected columns of equal length, got {got}; pass one value per impression")
    return next(iter(lengths.values()))


def as_groups(group: Groups) -> pa.Array:
    """Group ids as an Arrow array of int64 or large_string [N]. DataError names the first row without an id."""
    array = _to_arrow(group)
    if array.null_count:
        row = int(array.is_null().to_numpy(zero_copy_only=False).argmax())
        _refuse_row("group", "a user id", "null", row, array.null_count, "give every impression a user id")
    if pa.types.is_integer(array.type):
        return _as_int64(array)
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type):
        return array.cast(pa.large_string())
    if len(array) == 0:
        return pa.array([], pa.int64())
    raise DataError(f"group: expected integers or strings, got {array.type}; pass the raw user ids")


def _to_arrow(group: Any) -> pa.Array:
    if isinstance(group, pa.ChunkedArray):
        group = group.combine_chunks()
    if isinstance(group, pa.Array):
        return group.dictionary_decode() if pa.types.is_dictionary(group.type) else group
    values = np.asarray(group)
    if values.ndim != 1:
        raise DataError(f"group: expected one dimension, got shape {values.shape}; pass one user id per impression")
    # NumPy's variable-width strings have no Arrow conversion of their own.
    values = values.astype(object) if values.dtype.kind == "T" else values
    try:
        is_text = values.dtype.kind == "U" or (values.dtype == object and len(values) and isinstance(values[0], str))
        return pa.array(values, pa.large_string()) if is_text else pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise DataError(f"group: expected integers or strings, got a mixture; pass ids of one kind: {error}") from error


def _as_int64(array: pa.Array) -> pa.Array:
    if pa.types.is_uint64(array.type):
        # Only equality of ids matters, so the bits may be read as signed.
        return array.view(pa.int64())
    return array.cast(pa.int64())


def group_codes(groups: pa.Array) -> tuple[Codes, int]:
    """Dense codes [N] in [0, num_codes) and num_codes; equal ids get equal codes.

    The order of codes is not that of the ids, and codes without rows may exist: no result may depend on either.
    """
    assert pa.types.is_int64(groups.type) or pa.types.is_large_string(groups.type), groups.type
    if len(groups) == 0:
        return np.empty(0, np.int64), 0
    if pa.types.is_int64(groups.type):
        ids = groups.to_numpy(zero_copy_only=True)
        low, high = int(ids.min()), int(ids.max())
        if high - low < _DENSE_RANGE_FACTOR * len(ids):
            return ids - low, high - low + 1
    encoded = groups.dictionary_encode()
    assert isinstance(encoded, pa.DictionaryArray)
    return encoded.indices.to_numpy(zero_copy_only=True).astype(np.int64), len(encoded.dictionary)
