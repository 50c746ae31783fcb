"""Each backend's plan is made once, and only if it is asked for; ranges and times are checked for all of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ctr_rec.ops.prefix_attention import Backend, Pairs, pairs
from tests.ops.prefix_attention.cases import attend, make_case


def test_plans_are_made_once_and_late(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    plan_blocks = pairs.plan_blocks
    monkeypatch.setattr(pairs, "plan_blocks", lambda *a, **k: made.append(k["joint"]) or plan_blocks(*a, **k))
    case = make_case((4, 3), dtype=torch.float32)
    shared = Pairs(lo_Q=case.lo, hi_Q=case.hi, num_keys=7)
    for backend in ("reference", "fbgemm"):
        attend(case, None, kind="softmax", backend=backend, plan=shared)
    assert made == []
    for _ in range(3):
        attend(case, None, kind="softmax", plan=shared)
    assert made == [True]


@pytest.mark.parametrize("backend", ["blocked", "fbgemm", "flex", "reference"])
def test_every_backend_refuses_ranges_that_leave_the_keys(backend: Backend) -> None:
    case = make_case((3,), dtype=torch.float32)
    case = replace(case, hi=case.hi + 1)
    with torch.no_grad(), pytest.raises(ValueError, match=r"0 <= lo <= hi <= 3 keys, got lo=0, hi=4 at query"):
        attend(case, None, kind="softmax", backend=backend)


@pytest.mark.parametrize("backend", ["blocked", "fbgemm", "flex", "reference"])
def test_every_backend_refuses_a_time_table_without_times(backend: Backend) -> None:
    case = make_case((3,), dtype=torch.float32)
    without = Pairs(lo_Q=case.lo, hi_Q=case.hi, num_keys=3, num_buckets=6)
    with torch.no_grad(), pytest.raises(ValueError, match="a time bias needs query_time_Q and key_time_T"):
        attend(case, case.query_bias(position=False), kind="softmax", backend=backend, plan=without)


def test_a_foreign_plan_is_refused() -> None:
    case = make_case((3,))
    with pytest.raises(ValueError, match="other ranges"):
        attend(case, None, plan=Pairs(lo_Q=case.lo, hi_Q=case.lo, num_keys=3))
    with pytest.raises(ValueError, match=r"the plan was made for \(keys, positions, time buckets\) \(3, 0, 0\), got"):
        attend(case, case.bias(), plan=Pairs(lo_Q=case.lo, hi_Q=case.hi, num_keys=3))
