"""Numbers as the training range sees them, and what has no such form."""

from __future__ import annotations

import numpy as np

from ctr_rec.batch.standard import Counter, Standard
from ctr_rec.schema.manifest import NumberInfo

VALUES = np.array([0.0, 1.0, 7.0], np.float32)


def test_standard_form_with_and_without_logarithm() -> None:
    plain, log1p = (Standard.of(NumberInfo(mean=0.5, std=2.0), log1p) for log1p in (False, True))
    np.testing.assert_allclose(plain(VALUES), (VALUES - 0.5) / 2)
    np.testing.assert_allclose(log1p(VALUES), (np.log1p(VALUES) - 0.5) / 2, rtol=1e-6)
    assert VALUES.tolist() == [0.0, 1.0, 7.0]
    assert plain(VALUES).dtype == np.float32
    assert Standard.of(NumberInfo(mean=1.0, std=0.0), False)(VALUES).tolist() == [-1.0, 0.0, 6.0]
    own = VALUES.copy()
    assert log1p(own, out=own) is own
    assert own.tolist() == log1p(VALUES).tolist()


def test_values_without_a_standard_form() -> None:
    info = NumberInfo(mean=0.0, std=1.0)
    bad = np.array([np.nan, -1.0, np.inf, 3.0, -np.inf], np.float32)
    assert Standard.of(info, False).bad(VALUES) is Standard.of(info, True).bad(VALUES[:0]) is None
    found = [Standard.of(info, log1p).bad(bad) for log1p in (False, True)]
    assert [f.tolist() for f in found if f is not None] == [
        [True, False, True, False, True],
        [True, True, True, False, True],
    ]
    assert [Standard.of(info, log1p).expected for log1p in (False, True)] == [
        "a finite number",
        "a number above -1 (log1p)",
    ]


def test_a_counter_keeps_what_is_stored() -> None:
    counter = Counter(VALUES.copy(), Standard.of(NumberInfo(mean=0.5, std=2.0), False))
    taken = counter.take(np.array([2, 0]))
    assert taken.tolist() == [3.25, -0.25]
    taken[:] = 0
    assert counter.stored.tolist() == VALUES.tolist()
