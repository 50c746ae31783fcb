"""The entry: its division, its use of a plan, and its guards."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ctr_rec.errors import ConfigError
from ctr_rec.ops.prefix_attention import RelativeBias, plan_blocks, prefix_attention
from tests.ops.prefix_attention.cases import attend, make_case


@pytest.mark.parametrize("own_keys", [None, 3])
def test_visible_count_includes_own_keys(own_keys: int | None) -> None:
    case = make_case(own_keys=own_keys)
    total = attend(case, None, norm_constant=1.0)
    count = case.hi - case.lo
    count[case.num_keys :] += own_keys or 1
    torch.testing.assert_close(attend(case, None, norm="visible_count"), total / count.clamp(min=1)[:, None, None])


def test_a_plan_carries_the_times() -> None:
    case = make_case()
    full = case.bias()
    plan = plan_blocks(
        case.lo,
        case.hi,
        case.num_keys,
        num_positions=full.num_positions,
        num_buckets=full.num_buckets,
        query_time_Q=case.query_time,
        key_time_T=case.key_time,
    )
    tables = RelativeBias(position_PH=full.position_PH, time_BH=full.time_BH)
    assert torch.equal(attend(case, tables, plan=plan), attend(case, full))


def test_a_foreign_plan_is_refused() -> None:
    case = make_case()
    with pytest.raises(ValueError, match=r"the plan was made for \(keys, positions, time buckets\) \(134, 0, 0\), got"):
        attend(case, case.bias(), plan=plan_blocks(case.lo, case.hi, case.num_keys))
    with pytest.raises(ValueError, match="other ranges"):
        attend(case, None, plan=plan_blocks(case.lo, case.lo, case.num_keys))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "relu"}, "kind must be one of .*'silu', 'softmax'.*, got: 'relu'"),
        ({"norm": "length"}, "norm must be one of .*, got: 'length'"),
        ({"backend": "fast"}, "backend must be one of .*, got: 'fast'"),
        ({"norm_constant": 0.0}, "norm_constant must be above 0, got: 0.0"),
    ],
)
def test_unknown_choices_are_refused(options: dict[str, Any], message: str) -> None:
    case = make_case((3,))
    with pytest.raises(ConfigError, match=message):
        attend(case, None, **options)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("k", (9, 2, 5)), ("v", (8, 3, 7)), ("own_k", (9, 3, 4)), ("own_v", (8, 3, 7)), ("time", (6, 2))],
)
def test_shapes_that_do_not_fit_are_refused(name: str, shape: tuple[int, ...]) -> None:
    case = make_case((9,)).changed(**{name: torch.zeros(shape, dtype=torch.float64)})
    with pytest.raises(ValueError, match=rf"{name}\w* must have shape .* got: \({shape[0]}, "):
        attend(case, case.bias())


def test_more_own_keys_than_queries_are_refused() -> None:
    q, own = torch.zeros(2, 1, 3), torch.zeros(3, 1, 3)
    ends = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"own_k_CHE must have shape \(2, 1, 3\)"):
        prefix_attention(q, q, q, ends, ends, own, own)


@pytest.mark.parametrize("shape", [(8, 0, 3, 5), (8, 2, 2, 3, 5)])
def test_own_keys_in_other_numbers_than_one_or_more_are_refused(shape: tuple[int, ...]) -> None:
    case = make_case((8,)).changed(own_k=torch.zeros(shape), own_v=torch.zeros(*shape[:-1], 7))
    with pytest.raises(ValueError, match=r"own_k_CHE must have shape \[C, H, E\], or \[C, K, H, E\] with K >= 1, got"):
        attend(case, None)


def test_own_keys_and_values_in_unequal_numbers_are_refused() -> None:
    case = make_case((8,), own_keys=2).changed(own_v=torch.zeros(8, 3, 3, 7, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"own_v_CHV must have shape \(8, 2, 3, 7\).* got: \(8, 3, 3, 7\)"):
        attend(case, None)


def test_an_own_key_needs_its_value() -> None:
    case = make_case((4,))
    del case.tensors["own_v"]
    with pytest.raises(ValueError, match="go together"):
        attend(case, None)


def test_half_a_range_per_query_is_refused() -> None:
    case = make_case((4,))
    with pytest.raises(ValueError, match=r"q_QHE has 8 queries, got ranges for: 4"):
        prefix_attention(case.tensors["q"], case.tensors["k"], case.tensors["v"], case.lo[:4], case.hi[:4])
