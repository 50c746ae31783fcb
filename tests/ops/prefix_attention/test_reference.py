"""The reference against the formula written as loops over single pairs."""

from __future__ import annotations

import math

import pytest
import torch

from ctr_rec.ops.prefix_attention import time_bucket
from tests.ops.prefix_attention.cases import POSITIONS, Case, attend, make_case


def logit(case: Case, query: int, head: int, key: torch.Tensor, position: int, bucket: int) -> float:
    tensors = case.tensors
    product = float(tensors["q"][query, head] @ key)
    return 0.4 * product + float(tensors["position"][position, head] + tensors["time"][bucket, head])


def one_output(case: Case, query: int, head: int, kind: str) -> torch.Tensor:
    tensors = case.tensors
    logits, values = [], []
    for key in range(int(case.lo[query]), int(case.hi[query])):
        position = min(int(case.hi[query]) - key, POSITIONS - 1)
        seconds = int(case.query_time[query] - case.key_time[key])
        bucket = min((1 + seconds).bit_length() - 1, 5)
        logits.append(logit(case, query, head, tensors["k"][key, head], position, bucket))
        values.append(tensors["v"][key, head])
    own = query - (len(case.lo) - len(tensors["own_k"]))
    if own >= 0:
        for number in range(tensors["own_k"].shape[1]):
            logits.append(logit(case, query, head, tensors["own_k"][own, number, head], 0, 0))
            values.append(tensors["own_v"][own, number, head])
    if kind == "silu":
        weights = [x / (1 + math.exp(-x)) / 3.0 for x in logits]
    else:
        weights = [math.exp(x) / sum(math.exp(y) for y in logits) for x in logits]
    return sum((w * v for w, v in zip(weights, values, strict=True)), torch.zeros(7, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["silu", "softmax"])
@pytest.mark.parametrize("own_keys", [1, 3])
def test_reference_is_the_formula(kind: str, own_keys: int) -> None:
    case = make_case((6, 0, 1, 9), window=4, own_keys=own_keys)
    with torch.no_grad():
        out = attend(case, case.bias(), kind=kind, backend="reference")
        for query in range(len(case.lo)):
            for head in range(3):
                torch.testing.assert_close(
                    out[query, head], one_output(case, query, head, kind), rtol=1e-12, atol=1e-12
                )


def test_given_edges_reach_the_reference() -> None:
    case = make_case((12,))
    edges = torch.tensor([10, 300, 2_000])
    bucket = time_bucket(case.query_time[-1] - case.key_time[0], 6, edges)
    table = torch.zeros(6, 3, dtype=torch.float64)
    table[bucket] = 1e3
    case = case.changed(time=table)
    plain, edged = (attend(case, case.bias(False, True, e), backend="reference") for e in (None, edges))
    assert not torch.allclose(plain, edged)
    torch.testing.assert_close(edged, attend(case, case.bias(False, True, edges)))
