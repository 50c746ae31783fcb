"""Numbers standardised by the mean and deviation of the training range."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ctr_rec.batch.columns import Array, Int64
from ctr_rec.schema.manifest import NumberInfo

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Standard:
    """(x - mean) * scale, after log(1 + x) where `log1p`. scale: one over the deviation, 1 where that is 0."""

    mean: np.float32
    scale: np.float32
    log1p: bool

    @classmethod
    def of(cls, info: NumberInfo, log1p: bool) -> Standard:
        scale = 1.0 / info.std if info.std > 0 else 1.0
        return cls(np.float32(info.mean), np.float32(scale), log1p)

    @property
    def expected(self) -> str:
        """What a value must be, for messages."""
        return "a number above -1 (log1p)" if self.log1p else "a finite number"

    def bad(self, values: Array) -> Flags | None:
        """True where a value has no standard form: bool, shaped as `values`. None where all have one."""
        least = -1.0 if self.log1p else -np.inf
        if len(values) == 0 or (values.min() > least and values.max() < np.inf):  # not a number fails both
            return None
        return ~(np.isfinite(values) & (values > least))

    def __call__(self, values: Array, out: Array | None = None) -> Array:
        """float32, shaped as `values`. out: memory for the result, which may be that of `values`."""
        if self.log1p:
            values = out = np.log1p(values, out=out)
        out = np.subtract(values, self.mean, out=out)
        return np.multiply(out, self.scale, out=out)


@dataclass(frozen=True)
class Counter:
    """A counter of every event as stored, float32 [T], standardised only where an impression reads it."""

    stored: Array
    standard: Standard

    def take(self, rows: Int64) -> Array:
        """Standardised, at the given events, in memory of its own. float32 [rows]."""
        values = self.stored.take(rows)
        return self.standard(values, out=values)
