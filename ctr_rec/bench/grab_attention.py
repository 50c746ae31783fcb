"""GRAB's attention op alone: against padded SDPA with the same bias, against HSTU's dense form, and over its length.

Legend: B users, L longest history, T events of all users, H heads, E width of a head, P positions, G time buckets.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional

from ctr_rec.bench.record import Emit, Timing, emit_rate, measure
from ctr_rec.ops.prefix_attention import (
    BlockPlan,
    QueryBias,
    RelativeBias,
    plan_blocks,
    prefix_attention,
    time_bucket,
)

HEADS, WIDTH, BUCKETS = 4, 16, 32
LONGEST, USERS, MEAN = 1024, 4, 165
TOKENS = tuple(1024 << power for power in range(7))
WINDOW = 256
SAME = 1e-4
Forms = dict[str, Callable[[], list[Tensor]]]


@dataclass(frozen=True)
class Users:
    """Histories of several users, packed and as a rectangle; every event sees its user's up to itself, within a window.

    row_T: place of each event in the flattened rectangle. tensors: q, k, v [T, H, E], then the tables of the bias.
    """

    lengths: list[int]
    window: int
    silu: bool
    lo_T: Tensor
    hi_T: Tensor
    time_T: Tensor
    row_T: Tensor
    tensors: list[Tensor]
    plan: BlockPlan

    @property
    def longest(self) -> int:
        return max(self.lengths)


def make_users(lengths: list[int], window: int, silu: bool = False) -> Users:
    """silu: HSTU's kind of attention and bias, else GRAB's. Times are seconds apart as in one long session."""
    generator = torch.Generator().manual_seed(0)
    total, longest, per_row = sum(lengths), max(lengths), HEADS if silu else WIDTH
    start_T = torch.cat([torch.full((n,), sum(lengths[:i])) for i, n in enumerate(lengths)])
    user_T = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])
    hi_T = torch.arange(1, total + 1)
    lo_T = torch.maximum(start_T, hi_T - window)
    time_T = torch.randint(0, 60, (total,), generator=generator).cumsum(0)
    shapes = ((total, HEADS, WIDTH),) * 3 + ((window + 1, per_row), (BUCKETS, per_row))
    tensors = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    plan = plan_blocks(
        lo_T,
        hi_T,
        total,
        num_positions=window + 1,
        num_buckets=BUCKETS,
        query_time_Q=time_T,
        key_time_T=time_T,
        joint=silu,
    )
    row_T = user_T * longest + hi_T - 1 - start_T
    return Users(lengths, window, silu, lo_T, hi_T, time_T, row_T, tensors, plan)


def ours(users: Users) -> Tensor:
    q, k, v, position, time = users.tensors
    bias = (
        RelativeBias(position_PH=position, time_BH=time)
        if users.silu
        else QueryBias(position_PE=position, time_BE=time)
    )
    return prefix_attention(
        q,
        k,
        v,
        users.lo_T,
        users.hi_T,
        bias=bias,
        kind="silu" if users.silu else "softmax",
        scale=WIDTH**-0.5,
        plan=users.plan,
    )


def dense(users: Users) -> Tensor:
    """The same on a rectangle: a float mask of N x N per row and head that carries the bias and a gradient."""
    rows, longest = len(users.lengths), users.longest
    q, k, v = (_rectangle(x.flatten(1), users).unflatten(2, (HEADS, WIDTH)).transpose(1, 2) for x in users.tensors[:3])
    slot_L = torch.arange(longest)
    distance_LL = slot_L[:, None] + 1 - slot_L
    time_BL = _rectangle(users.time_T[:, None], users).squeeze(2)
    bucket_BLL = time_bucket(time_BL[:, :, None] - time_BL[:, None, :], BUCKETS)
    length_B = torch.tensor(users.lengths)
    hidden_BLL = (distance_LL < 1) | (distance_LL > users.window) | (slot_L >= length_B[:, None, None])
    position_LL = distance_LL.clamp(0, users.window)
    position, time = users.tensors[3:]
    if users.silu:
        bias_BHLL = position[position_LL].permute(2, 0, 1) + time[bucket_BLL].permute(0, 3, 1, 2)
        logit = torch.matmul(q, k.transpose(2, 3)) * WIDTH**-0.5 + bias_BHLL
        out = torch.matmul(functional.silu(logit) * ~hidden_BLL.unsqueeze(1), v)
    else:
        shape = (rows, HEADS, longest, longest)
        score_P, score_G = torch.matmul(q, position.t()), torch.matmul(q, time.t())
        mask = score_P.gather(3, position_LL.expand(shape)) + score_G.gather(3, bucket_BLL.unsqueeze(1).expand(shape))
        mask = (mask * WIDTH**-0.5).masked_fill(hidden_BLL.unsqueeze(1), -1e9)
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).flatten(0, 1)[users.row_T]


def _rectangle(x_TD: Tensor, users: Users) -> Tensor:
    padded = x_TD.new_zeros(len(users.lengths) * users.longest, x_TD.shape[1])
    return padded.index_copy(0, users.row_T, x_TD).view(len(users.lengths), users.longest, -1)


def both_forms(users: Users) -> Forms:
    """Forward and backward; each returns the output and every gradient."""
    grad_THE = torch.randn(len(users.time_T), HEADS, WIDTH, generator=torch.Generator().manual_seed(1))

    def step(attend: Callable[[Users], Tensor]) -> list[Tensor]:
        out = attend(users)
        return [out.detach(), *torch.autograd.grad(out, users.tensors, grad_THE)]

    return {"ours": lambda: step(ours), "dense": lambda: step(dense)}


def difference(forms: Forms) -> float:
    """Largest relative difference, in norm, of the output and of every gradient."""
    pairs = zip(forms["ours"](), forms["dense"](), strict=True)
    return max(((a - b).norm() / b.norm().clamp(min=1e-12)).item() for a, b in pairs)


def even_lengths(users: int, longest: int) -> list[int]:
    """Lengths spread evenly up to the longest, which is one of them; half of their rectangle is filled."""
    return [max(1, longest * (2 * i + 1) // (2 * users)) for i in range(users - 1)] + [longest]


def skewed_lengths(users: int, longest: int, mean: int) -> list[int]:
    """As real histories: most short, one of the longest; drawn once, their mean is about `mean`."""
    drawn = torch.randn(users - 1, generator=torch.Generator().manual_seed(0)).exp()
    scaled = drawn * max(1.0, (mean * users - longest) / float(drawn.sum()))
    return [*scaled.long().clamp(1, longest).tolist(), longest]


def emit_all(emit: Emit, runs: int) -> None:
    _against_sdpa(emit, runs)
    _against_dense_hstu(emit, runs)
    _over_length(emit, runs)


def _against_sdpa(emit: Emit, runs: int) -> None:
    users = make_users(even_lengths(2 * USERS, LONGEST), LONGEST)
    filled = sum(users.lengths) / (len(users.lengths) * users.longest)
    case = f"attention with bias, longest {LONGEST}, {filled:.0%} dense, against padded SDPA with a dense bias"
    _compare(emit, case, users, ">= 3", runs)
    peaks = {name: peak_bytes(name, users.lengths, LONGEST) for name in ("ours", "dense")}
    emit(
        "grab",
        case,
        "peak memory of forward and backward",
        peaks["ours"] / 2**20,
        "MiB",
        baseline=peaks["dense"] / 2**20,
        ratio=peaks["dense"] / max(peaks["ours"], 1.0),
        goal=">= 5",
    )


def _against_dense_hstu(emit: Emit, runs: int) -> None:
    users = make_users(skewed_lengths(2 * USERS, LONGEST, MEAN), WINDOW, silu=True)
    mean = sum(users.lengths) / len(users.lengths)
    case = f"HSTU's attention, mean length {mean:.0f}, longest {LONGEST}, window {WINDOW}, against N x N per row"
    _compare(emit, case, users, ">= 10", runs)
    full = make_users([LONGEST] * USERS, WINDOW, silu=True)
    case = f"HSTU's attention, every history of {LONGEST}, window {WINDOW}, against N x N per row"
    _compare(emit, case, full, ">= 10", runs)


def _compare(emit: Emit, case: str, users: Users, goal: str, runs: int) -> None:
    forms = both_forms(users)
    what = "relative difference of outputs and gradients"
    emit("grab", case, what, difference(forms), "", goal=f"<= {SAME}")
    timings = measure(forms, runs=runs)
    tokens = sum(users.lengths)
    what = "tokens/s, forward and backward"
    emit_rate(emit, "grab", case, what, tokens, timings["ours"], timings["dense"], goal)


def _over_length(emit: Emit, runs: int) -> None:
    """The plan, too, is made anew in every round: it must be linear as well."""

    def step(tokens: int) -> object:
        users = make_users([min(LONGEST, tokens)] * max(1, tokens // LONGEST), WINDOW)
        return torch.autograd.grad(ours(users).sum(), users.tensors)

    timings = measure({str(tokens): lambda n=tokens: step(n) for tokens in TOKENS}, runs=runs)
    for tokens in TOKENS:
        emit_seconds(emit, f"attention with a window of {WINDOW}, {tokens:,} tokens", timings[str(tokens)])
    slope = exponent([(tokens, timings[str(tokens)].median) for tokens in TOKENS])
    case = f"attention with a window of {WINDOW}, {TOKENS[0]:,} to {TOKENS[-1]:,} tokens"
    emit("grab", case, "exponent of tokens in seconds", slope, "", goal="<= 1.1", runs=runs)


def emit_seconds(emit: Emit, case: str, timing: Timing) -> None:
    metric = "forward, backward and plan"
    emit("grab", case, metric, timing.median, "s", min=timing.min, max=timing.max, runs=timing.runs)


def exponent(points: list[tuple[int, float]]) -> float:
    """Slope of log seconds over log size, by least squares."""
    xs, ys = [math.log(x) for x, _ in points], [math.log(y) for _, y in points]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    over = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    return over / sum((x - x_mean) ** 2 for x in xs)


def peak_bytes(form: str, lengths: list[int], window: int, runs: int = 3) -> float:
    """By how much forward and backward raise a process' largest memory, measured in processes of their own."""
    return printed_by(
        f"from ctr_rec.bench.grab_attention import raised; print(raised({form!r}, {lengths}, {window}))", runs
    )


def printed_by(code: str, runs: int) -> float:
    """Median of the number that `code` prints last, each time in a process of its own."""
    found = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()[-1]
        for _ in range(runs)
    ]
    return median(float(number) for number in found)


def raised(form: str, lengths: list[int], window: int) -> int:
    """Runs in a process of its own. A first pass over tiny users loads what any pass needs."""
    both_forms(make_users([8, 5], 4))[form]()
    call = both_forms(make_users(lengths, window))[form]
    before = largest_so_far()
    call()
    return largest_so_far() - before


def largest_so_far() -> int:
    """Largest resident memory of this process, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage would count the memory of whoever started this process.
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
