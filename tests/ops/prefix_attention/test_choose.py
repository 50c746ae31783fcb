"""The choice: what "auto" takes where, and what a forced backend refuses."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import pytest
import torch

from ctr_rec.errors import ConfigError
from ctr_rec.ops.prefix_attention import Backend, Pairs
from ctr_rec.ops.prefix_attention.choose import BACKENDS, choose
from tests.ops.prefix_attention.cases import attend, make_case


@dataclass(frozen=True)
class Described:
    """What the choice reads of a tensor, on a device that is not here."""

    is_cuda: bool = True
    width: int = 16
    dtype: torch.dtype = torch.float32

    @property
    def shape(self) -> tuple[int, int, int]:
        return (9, 2, self.width)


@pytest.fixture
def _triton(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name == "triton" else found(name))


def chosen(backend: Backend, kind: str, q: Described, v: Described | None = None) -> Backend:
    return choose(backend, kind, q, v or q)  # pyright: ignore[reportArgumentType]


@pytest.mark.usefixtures("_triton")
@pytest.mark.parametrize("is_cuda", [True, False])
@pytest.mark.parametrize("kind", ["softmax", "silu"])
def test_auto_is_what_has_been_measured(kind: str, is_cuda: bool) -> None:
    assert chosen("auto", kind, Described(is_cuda=is_cuda)) == "blocked"


def test_auto_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert chosen("auto", "softmax", Described()) == "blocked"
    with pytest.raises(ConfigError, match=r"'flex' expects Triton.*got: no package named triton; use 'auto'"):
        chosen("flex", "softmax", Described())


def test_what_is_asked_for_is_taken() -> None:
    for backend in BACKENDS[1:]:
        assert chosen(backend, "softmax", Described(is_cuda=False)) == backend


@pytest.mark.usefixtures("_triton")
@pytest.mark.parametrize(
    ("backend", "kind", "q", "message"),
    [
        ("flex", "silu", Described(is_cuda=False), r"'flex' expects kind 'softmax', got: 'silu'; use 'auto' or"),
        ("flex", "softmax", Described(width=15), r"'flex' expects heads of width 16 or more on CUDA, got: \(15, 15\)"),
        ("flex", "softmax", Described(dtype=torch.float64), r"'flex' expects float32, .* got: torch\.float64; use"),
        ("fbgemm", "silu", Described(dtype=torch.float64), r"'fbgemm' expects float32, .* got: torch\.float64; use"),
        ("fbgemm", "silu", Described(dtype=torch.bfloat16), r"'fbgemm' expects float32, .* got: torch\.bfloat16; use"),
    ],
)
def test_what_cannot_be_computed_is_refused(backend: Backend, kind: str, q: Described, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        chosen(backend, kind, q)


def test_the_op_refuses_too() -> None:
    case = make_case((3,))
    with pytest.raises(ConfigError, match="'flex' expects kind 'softmax'"):
        attend(case, case.query_bias(), kind="silu", backend="flex")
    with pytest.raises(ConfigError, match="'fbgemm' expects float32"):
        attend(case, case.query_bias(), backend="fbgemm")


@pytest.mark.parametrize("backend", ["flex", "fbgemm", "reference"])
def test_a_block_plan_is_for_the_blocked_backend(backend: Backend) -> None:
    case = make_case((3,), dtype=torch.float32)
    blocks = Pairs(lo_Q=case.lo, hi_Q=case.hi, num_keys=3).blocks(joint=True)
    with pytest.raises(ValueError, match=f"a BlockPlan is for backend 'blocked', got: '{backend}'; pass its Pairs"):
        attend(case, None, kind="softmax", backend=backend, plan=blocks)
