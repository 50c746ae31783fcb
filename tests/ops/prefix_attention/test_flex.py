"""FlexAttention's parts: buckets, tiles, refusal on CPU, how often it is compiled; and the kernel, on CUDA."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.attention.flex_attention as torch_flex
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.attention.flex_attention import create_block_mask

from ctr_rec.errors import ConfigError
from ctr_rec.ops.prefix_attention import flex, prefix_attention, time_bucket
from ctr_rec.ops.prefix_attention.pairs import Pairs
from tests.ops.prefix_attention.cases import WIDTH, Case, attend, make_case, output_and_gradients
from tests.ops.prefix_attention.test_blocked import assert_close

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


@pytest.mark.parametrize(("dtype", "bits"), [(torch.int32, 31), (torch.int64, 52)])
@pytest.mark.parametrize("num_buckets", [1, 7, 64])
def test_buckets_are_those_of_time_bucket(dtype: torch.dtype, bits: int, num_buckets: int) -> None:
    seconds = torch.tensor([max(2**bit + step, -5) for bit in range(bits) for step in (-7, -2, -1, 0, 1)])
    seconds = seconds[seconds < torch.iinfo(dtype).max].to(dtype)
    edges = torch.tensor([-3, 0, 5, 1_000, 2**33])
    for given in (None, edges):
        got = flex._bucket(seconds, num_buckets - 1, None if given is None else tuple(given.tolist()))
        assert torch.equal(got.long(), time_bucket(seconds, num_buckets, given))


@pytest.mark.parametrize("lengths", [(), (0, 0), (1,) * 300, (257,), (700,), (3, 500, 0, 130)])
@pytest.mark.parametrize("window", [1, 100, 1000])
@pytest.mark.parametrize("own_each", [0, 1, 3])
def test_tiles_hold_every_visible_pair_and_full_ones_no_hidden_one(
    lengths: tuple[int, ...], window: int, own_each: int
) -> None:
    case = make_case(lengths, window)
    num_own = case.num_keys if own_each else 0
    tiles = flex._make_tiles(Pairs(lo_Q=case.lo, hi_Q=case.hi, num_keys=case.num_keys), num_own, own_each)
    size = len(tiles.lo_Q), len(tiles.owner_S)
    want = create_block_mask(tiles.mask.mask_mod, 1, 1, *size, device="cpu")
    assert tiles.mask.shape == want.shape
    kept, needed = tiles.mask.to_dense() > 0, want.to_dense() > 0
    assert (kept | ~needed).all()
    # Only the row of tiles in which history ends and candidates begin spans more than it sees.
    assert (kept != needed).any(-1).sum() <= 1
    full, want_full = (m.full_kv_num_blocks for m in (tiles.mask, want))
    assert full is not None
    assert want_full is not None
    assert torch.equal(full, want_full)
    seen = torch.zeros(size, dtype=torch.bool)
    for query in range(len(case.lo)):
        seen[query, case.lo[query] : case.hi[query]] = True
        own = query - (len(case.lo) - num_own)
        if own >= 0:
            seen[query, tiles.first_own + own * own_each : tiles.first_own + (own + 1) * own_each] = True
    query, key = torch.arange(size[0])[:, None], torch.arange(size[1])
    zero = torch.zeros((), dtype=torch.int64)
    assert torch.equal(tiles.mask.mask_mod(zero, zero, query, key), seen)


def test_gradients_on_cpu_are_refused() -> None:
    case = make_case((3,))
    with pytest.raises(ConfigError, match=r"'flex' has gradients on CUDA only, got tensors on the CPU.*use 'auto'"):
        attend(case, case.query_bias(), kind="softmax", backend="flex")
    with torch.no_grad():
        assert torch.isfinite(attend(case, case.query_bias(), kind="softmax", backend="flex")).all()


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Iterator[CompileCounterWithBackend]:
    """What is compiled on CUDA, traced here, forward and backward, without generating code."""
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *inputs: None)
    monkeypatch.setattr(flex, "_refuse_gradients", lambda *inputs: None)
    torch.compiler.reset()
    counting = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(torch_flex.flex_attention, fullgraph=True, backend=counting)
    monkeypatch.setattr(flex, "flex_attention", compiled)
    yield counting
    torch.compiler.reset()


@pytest.mark.usefixtures("counter")
def test_compiled_equals_reference() -> None:
    """The uncompiled form forgives what loses gradients here: a captured view, a captured float."""
    for lengths, own in (((5, 0, 133), "candidates"), ((3, 150), "none")):
        case = wide(make_case(lengths, own=own), torch.float64, 16, 32).on("cpu")
        bias = case.query_bias()
        want = output_and_gradients(case, bias, kind="softmax", backend="reference")
        assert_close(output_and_gradients(case, bias, kind="softmax", backend="flex"), want, torch.float64)


@pytest.mark.slow
def test_batches_of_any_size_share_few_compilations(counter: CompileCounterWithBackend) -> None:
    """Of 8 allowed. History and candidates of two channels with windows of their own, training and scoring."""
    after = []
    for step, length in enumerate((300, 430, 561)):
        for window, positions in ((20, 21), (50, 51)):
            case = make_case((length, 0, 3), window)
            table = torch.randn(positions, WIDTH, dtype=torch.float64, requires_grad=True)
            bias = replace(case.query_bias(), position_PE=table)
            history = case.num_keys
            for some, own in ((slice(0, history), False), (slice(history, history + 130 * (step + 1)), True)):
                q, k, v = case.tensors["q"][some], case.tensors["k"], case.tensors["v"]
                mine = (case.tensors["own_k"][: len(q)], case.tensors["own_v"][: len(q)]) if own else (None, None)
                seen = replace(bias, query_time_Q=case.query_time[some])
                for training in (True, False):
                    with torch.set_grad_enabled(training):
                        out = prefix_attention(
                            q, k, v, case.lo[some], case.hi[some], *mine, seen, kind="softmax", backend="flex"
                        )
                    if training:
                        out.sum().backward()
        after.append(counter.frame_count)
    assert after[-1] == after[-2], after
    assert after[-1] <= 6, after


def wide(case: Case, dtype: torch.dtype, width: int, value_width: int) -> Case:
    """The case with heads that are wide enough for Triton."""
    widths = {"q": width, "k": width, "own_k": width, "v": value_width, "own_v": value_width}
    widths |= {"position_codes": width, "time_codes": width}
    tensors = {name: x.detach().to(dtype) for name, x in case.tensors.items()}
    for name in widths.keys() & tensors.keys():
        tensors[name] = torch.randn(*tensors[name].shape[:-1], widths[name], dtype=torch.float32).to(dtype)
    return case.changed(**tensors)


@pytest.mark.gpu
@pytest.mark.parametrize("own", ["none", "candidates", "all"])
@pytest.mark.parametrize(("position", "time"), [(True, True), (True, False), (False, True), (False, False)])
def test_cuda_equals_the_reference_on_cpu(own: str, position: bool, time: bool) -> None:
    torch.compiler.reset()
    for lengths in ((7, 0, 1, 133, 2, 291), (128,), ()):
        case = wide(make_case(lengths, 50, own=own), torch.float32, 16, 32).on("cpu")
        want = output_and_gradients(case, case.query_bias(position, time), kind="softmax", backend="reference")
        moved = case.on("cuda")
        got = output_and_gradients(moved, moved.query_bias(position, time), kind="softmax", backend="flex")
        assert_close({name: tensor.cpu() for name, tensor in got.items()}, want, torch.float32)


@pytest.mark.gpu
def test_cuda_in_half_precision_stays_near_the_blocked_backend() -> None:
    torch.compiler.reset()
    case = wide(make_case((7, 0, 133), 50), torch.bfloat16, 16, 16).on("cuda")
    got, want = (
        output_and_gradients(case, case.query_bias(), kind="softmax", backend=backend)
        for backend in ("flex", "blocked")
    )
    for name, expected in want.items():
        scale = 1.0 + expected.abs().max().item()
        torch.testing.assert_close(got[name], expected, rtol=0, atol=3e-2 * scale, msg=lambda m, n=name: f"{n}: {m}")
